/* Decodes steps from a CSV of events, step,unit,value,bin, ascending (`cortex replay --events`
 * writes one), and prints step and velocity: decode_c MODEL EVENTS STEPS */
#include <cortex/cortex.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static void check(cortex_status status) {
  if (status == CORTEX_OK) return;
  fprintf(stderr, "decode_c: %s\n", cortex_error());
  exit(1);
}

static int read_event(FILE* file, int64_t* step, cortex_event* e) {
  return fscanf(file, "%" SCNd64 ",%" SCNd32 ",%" SCNd32 ",%" SCNd64, step, &e->unit, &e->value,
                &e->bin) == 4;
}

int main(int argc, char** argv) {
  if (argc != 4) return fprintf(stderr, "usage: decode_c MODEL EVENTS STEPS\n"), 2;
  cortex_engine* engine;
  cortex_session* session;
  check(cortex_load(argv[1], NULL, &engine));
  check(cortex_open(engine, NULL, 0, &session));
  FILE* file = fopen(argv[2], "r");
  if (!file) return perror(argv[2]), 1;

  static cortex_event events[4096];
  cortex_event next;
  int64_t step_of_next = -1;
  size_t outputs = cortex_output_count(engine);
  float* velocity = calloc(outputs, sizeof(float));
  int more = fscanf(file, "%*[^\n]") == 0 && read_event(file, &step_of_next, &next);
  for (int64_t step = 0; step < atoll(argv[3]); ++step) {
    size_t count = 0;
    for (; more && step_of_next == step; more = read_event(file, &step_of_next, &next)) {
      if (count == 4096) return fprintf(stderr, "decode_c: more than 4096 events a step\n"), 1;
      events[count++] = next;
    }
    check(cortex_step(session, events, count, velocity, outputs));
    printf("%" PRId64, step);
    for (size_t i = 0; i < outputs; ++i) printf(",%.9g", velocity[i]);
    printf("\n");
  }
  free(velocity);
  fclose(file);
  cortex_close(session);
  cortex_free(engine);
  return 0;
}
