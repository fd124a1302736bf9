#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <optional>

#include "bench_commands.h"
#include "bench_decode.h"
#include "bench_model.h"
#include "kernels/backend.h"

namespace cortex {
namespace {

struct DecodeFlags {
  std::string preset;
  std::string model;
  std::string precision = "fp32";
  int batch = 1;
  std::optional<std::int64_t> events;
  int threads = 1;
  std::string isa;
  std::string device = "cpu";
  std::string gemm_table = {};
  double seconds = 2;
  double evict_mb = 0;
  std::uint64_t seed = 1;
  bool nvtx = false;
  bool json = false;
};

struct DecodeReport {
  const ModelFile& file;
  std::string backend;
  std::string precision;
  std::int64_t events;
  ForwardFlops flops;
  ForwardBytes bytes;
  std::size_t resident_bytes;
  Ceilings ceilings;
  Floor floor;
  Timing timing;

  double gflops() const { return flops.total() / timing.p50_us * 1e-3; }
  double fraction() const { return floor.us() / timing.p50_us; }
};

std::string as_json(const DecodeFlags& flags, const DecodeReport& r) {
  const ModelConfig& c = r.file.config;
  JsonWriter w;
  w.begin_object().key("benchmark").value("decode");
  write_machine(w);
  w.key("model").value(c.preset).key("weights").value(flags.model.empty() ? "random" : flags.model);
  w.key("kind").value(to_string(c.kind)).key("backend").value(r.backend);
  w.key("precision").value(r.precision);
  w.key("batch").value(flags.batch).key("events").value(r.events);
  w.key("threads").value(flags.threads).key("evict_mb").value(flags.evict_mb);
  w.key("seed").value(flags.seed).key("iterations").value(r.timing.iterations);
  w.key("p50_us").value(r.timing.p50_us).key("p99_us").value(r.timing.p99_us);
  w.key("mean_us").value(r.timing.mean_us).key("min_us").value(r.timing.min_us);
  w.key("max_us").value(r.timing.max_us);
  w.key("gflop").value(r.flops.total() * 1e-9).key("gflops").value(r.gflops());
  w.key("weight_bytes").value(r.bytes.weights).key("cache_bytes").value(r.bytes.cache);
  w.key("resident_weight_bytes").value(std::uint64_t{r.resident_bytes});
  if (flags.device != "cpu") {
    w.end_object();
    return w.text();
  }
  w.key("floor_us").value(r.floor.us()).key("floor_arithmetic_us").value(r.floor.arithmetic_us);
  w.key("floor_memory_us").value(r.floor.memory_us).key("memory_level").value(r.floor.level);
  w.key("fraction_of_floor").value(r.fraction()).key("ceilings");
  r.ceilings.write(w);
  w.end_object();
  return w.text();
}

void print_for_a_person(const DecodeFlags& flags, const DecodeReport& r) {
  const bool stream = r.file.config.kind == ModelKind::stream;
  fmt::print("{} {} on {}, {} threads: {} {} of {} events\n", r.file.config.preset, r.precision,
             r.backend, flags.threads, flags.batch, stream ? "streams, a step" : "windows",
             r.events);
  fmt::print("  p50 {:.1f} us, p99 {:.1f}, mean {:.1f}, min {:.1f}; {} iterations\n",
             r.timing.p50_us, r.timing.p99_us, r.timing.mean_us, r.timing.min_us,
             r.timing.iterations);
  fmt::print("  {:.3g} GFLOP, {:.1f} GFLOP/s; reads {:.2f} MB of weights, {:.2f} MB of K and V\n",
             r.flops.total() * 1e-9, r.gflops(), r.bytes.weights * 1e-6, r.bytes.cache * 1e-6);
  fmt::print("  {:.2f} MB of weights and tables are resident\n",
             static_cast<double>(r.resident_bytes) * 1e-6);
  if (flags.device != "cpu") return;  // whose ceilings are not known
  fmt::print("  floor {:.1f} us (arithmetic {:.1f}, memory {:.1f} from {}): at {:.0f}% of it\n",
             r.floor.us(), r.floor.arithmetic_us, r.floor.memory_us, r.floor.level,
             100 * r.fraction());
}

ModelFile load(const DecodeFlags& flags) {
  if (!flags.model.empty()) return load_model(flags.model).value_or_throw();
  const auto units = std::max<std::int64_t>(kBenchUnits, flags.events.value_or(0));
  const std::string wide = flags.precision == "fp8" ? "fp32" : flags.precision;
  return random_preset(flags.preset, precision_of(wide), static_cast<int>(units), flags.seed);
}

void run_decode(const DecodeFlags& flags) {
  if (flags.preset.empty() == flags.model.empty())
    throw CLI::ValidationError("give one of --preset and --model");
  const ModelFile file = load(flags);
  const std::int64_t events = flags.events.value_or(
      file.config.kind == ModelKind::stream ? kBenchStepEvents : kBenchWindowEvents);
  const Backend backend =
      make_backend(
          flags.device, {.threads = flags.threads, .isa = flags.isa},
          {.fp8 = flags.precision == "fp8", .sections = flags.nvtx, .gemm_table = flags.gemm_table})
          .value_or_throw();
  if (flags.precision == "fp8" && file.config.kind == ModelKind::stream)
    throw CLI::ValidationError("--precision", "fp8 is for window models: a stream keeps its bits");
  const auto decoder = make_bench_decoder(
      file, *backend.ops, {.batch = flags.batch, .events = events, .seed = flags.seed});
  const Ceilings ceilings =
      backend.on_gpu ? Ceilings{} : measure_ceilings({.threads = flags.threads, .isa = flags.isa});
  const Timing timing = time_decoder(*decoder, flags.seconds, flags.evict_mb, flags.threads);
  const ForwardFlops flops = decoder->flops();
  const ForwardBytes bytes = decoder->bytes();
  const std::size_t resident = decoder->resident_bytes();
  const Floor floor =
      backend.on_gpu ? Floor{}
                     : floor_of(flops, bytes, file.precision(), flags.evict_mb * 1e6, ceilings);
  const std::string name = backend.on_gpu ? backend.name : backend.ops->name();
  const std::string precision =
      flags.precision == "fp8" ? flags.precision : precision_name(file.precision());
  const DecodeReport report{file,  name,     precision, events, flops,
                            bytes, resident, ceilings,  floor,  timing};
  if (flags.json)
    fmt::print("{}\n", as_json(flags, report));
  else
    print_for_a_person(flags, report);
}

}  // namespace

void add_bench_decode(CLI::App& bench) {
  auto flags = std::make_shared<DecodeFlags>();
  CLI::App* command = bench.add_subcommand(
      "decode", "Time forwards of windows, or steps of streams with their full context.");
  auto* preset = command->add_option("--preset", flags->preset, "a preset, with random weights")
                     ->check(CLI::IsMember(preset_names()));
  auto* model = command->add_option("--model", flags->model, "a model file, in its own precision");
  auto* precision =
      command
          ->add_option("--precision", flags->precision,
                       "of a preset: fp32, bf16 or int8; fp8: windows on a Hopper GPU")
          ->check(CLI::IsMember({"fp32", "bf16", "int8", "fp8"}))
          ->capture_default_str();
  model->excludes(preset);
  model->excludes(precision);
  command->add_option("--batch", flags->batch, "windows or streams at once")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_option("--events", flags->events, "a window (default 512) or a step (default 40)")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 20));
  command->add_option("--threads", flags->threads, "compute threads")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  command->add_option("--isa", flags->isa, "avx512, avx2 or scalar; default: the best")
      ->check(CLI::IsMember({"avx512", "avx2", "scalar"}));
  command->add_option("--device", flags->device, "cpu, cuda:N or auto")->capture_default_str();
  command
      ->add_option("--gemm-table", flags->gemm_table,
                   "on a GPU: file of cortex tune, in place of the built-in table")
      ->check(CLI::ExistingFile);
  command->add_option("--seconds", flags->seconds, "length of the timed part")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  command
      ->add_option("--evict", flags->evict_mb,
                   "MB of other memory streamed over before each forward, not timed")
      ->check(CLI::Range(0.0, 65536.0))
      ->capture_default_str();
  command->add_option("--seed", flags->seed, "of weights and events")->capture_default_str();
  command->add_flag("--nvtx", flags->nvtx,
                    "on a GPU, for a profiler: kernel by kernel, in an NVTX range a section");
  command->add_flag("--json", flags->json, "print one JSON object");
  command->footer(
      "Example:\n"
      "  cortex bench decode --preset cortex-s --precision int8 --threads 2\n"
      "  cortex bench decode --preset stream-s --precision int8 --batch 16 --evict 60 --json");
  command->callback([flags] { run_decode(*flags); });
}

}  // namespace cortex
