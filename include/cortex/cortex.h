/* The engine in process, for C and for whatever can call C.
 *
 *     cortex_engine* engine;
 *     cortex_session* session;
 *     if (cortex_load("model.safetensors", NULL, &engine)) die(cortex_error());
 *     if (cortex_open(engine, NULL, 0, &session)) die(cortex_error());
 *     cortex_event events[] = {{3, 1, 0}};
 *     float velocity[2];
 *     if (cortex_step(session, events, 1, velocity, 2)) die(cortex_error());
 *     cortex_close(session);
 *     cortex_free(engine);
 *
 * A call that can fail returns a cortex_status; cortex_error() says in words what was wrong with
 * the calling thread's last failure. Sessions of one engine may be used from different threads; one
 * session from one thread at a time. Calls hold no lock while they wait.
 */
#ifndef CORTEX_CORTEX_H
#define CORTEX_CORTEX_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Grows when a function or field is added; a change that would break a program changes the
 * library's soname. */
#define CORTEX_ABI_VERSION 1

typedef enum cortex_status {
  CORTEX_OK = 0,
  CORTEX_INVALID_ARGUMENT = 1,   /* a value that was given is wrong: nothing was taken */
  CORTEX_NOT_FOUND = 2,          /* no such file or session */
  CORTEX_OUT_OF_ORDER = 3,       /* not the next step of the session */
  CORTEX_TOO_LARGE = 4,          /* over a stated limit: nothing was taken */
  CORTEX_RESOURCE_EXHAUSTED = 5, /* no memory, no page or no capacity left */
  CORTEX_CORRUPT_DATA = 6,       /* a file that is not what it claims to be */
  CORTEX_UNSUPPORTED = 7,
  CORTEX_DEADLINE_EXCEEDED = 8,
  CORTEX_UNAVAILABLE = 9, /* the session is lost: open another */
  CORTEX_IO_ERROR = 10,
  CORTEX_INTERNAL = 11 /* also: a step was computed, but its output is not finite */
} cortex_status;

/* A unit fired `value` times in bin `bin`, counted from the session's start. */
typedef struct cortex_event {
  int32_t unit;  /* index into the session's units */
  int32_t value; /* spikes, at least 1 */
  int64_t bin;
} cortex_event;

/* Zero-initialise, set size = sizeof(cortex_options); 0 and NULL are defaults. */
typedef struct cortex_options {
  size_t size;
  const char* device;   /* "auto" (the default), "cpu" or "cuda:N" */
  int32_t max_sessions; /* open at once; 16 */
  int32_t threads;      /* cores that share one step; what suits the model and the machine */
  int32_t realtime;     /* not 0: lock memory, pin threads, ask for SCHED_FIFO */
} cortex_options;

typedef struct cortex_engine cortex_engine;
typedef struct cortex_session cortex_session;

/* The library's own CORTEX_ABI_VERSION. */
int32_t cortex_abi_version(void);
/* Words for the calling thread's last failure; valid until its next call. Never NULL. */
const char* cortex_error(void);

/* Loads a stream model and warms it up. `options` may be NULL. On failure *engine is NULL. */
cortex_status cortex_load(const char* model_path, const cortex_options* options,
                          cortex_engine** engine);
/* Frees an engine whose sessions are closed. NULL does nothing. */
void cortex_free(cortex_engine* engine);

/* Values of an answer; their names and physical units (valid as long as the engine), NULL for an
 * index out of range. */
size_t cortex_output_count(const cortex_engine* engine);
const char* cortex_output_name(const cortex_engine* engine, size_t index);
const char* cortex_output_unit(const cortex_engine* engine, size_t index);
/* The model's units: what cortex_event.unit indexes where a session declares none. */
size_t cortex_unit_count(const cortex_engine* engine);
const char* cortex_unit_id(const cortex_engine* engine, size_t index);
/* Step n owns bins [n * k, (n + 1) * k), k bins a step, each of bin_ms milliseconds. */
int32_t cortex_bins_per_step(const cortex_engine* engine);
double cortex_bin_ms(const cortex_engine* engine);

/* Opens a session of its own memory. `unit_ids`: `count` ids of the session's units in the order
 * that events index them, each one of the model's; NULL and 0 for the model's own. */
cortex_status cortex_open(cortex_engine* engine, const char* const* unit_ids, size_t count,
                          cortex_session** session);
/* NULL does nothing. */
void cortex_close(cortex_session* session);
/* The number of the next step, 0 at first. */
int64_t cortex_next_step(const cortex_session* session);

/* Decodes the next step from its events, in any order, none of them outside its bins, and waits
 * for the answer: `outputs` values in physical units, no fewer than cortex_output_count(). Where
 * nothing was taken (INVALID_ARGUMENT, TOO_LARGE, RESOURCE_EXHAUSTED) the same step
 * may be sent again. Allocates nothing. */
cortex_status cortex_step(cortex_session* session, const cortex_event* events, size_t count,
                          float* behavior, size_t outputs);
/* The next `steps` steps have no events; their answers are not kept, but later ones know of them.
 * They are computed with the step that follows. */
cortex_status cortex_skip(cortex_session* session, int64_t steps);

#ifdef __cplusplus
}
#endif

#endif
