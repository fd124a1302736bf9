#include "train/setup.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "data/nwb.h"
#include "data/prepare.h"
#include "train/baseline_nets.h"

namespace cortex::train {
namespace {

Error bad_flag(const char* flag, const std::string& what) {
  return {ErrorCode::invalid_argument, fmt::format("--{} {}", flag, what), flag};
}

template <class T>
void apply(const std::optional<T>& from, T& into) {
  if (from) into = *from;
}

}  // namespace

Result<void> check_options(const TrainOptions& o) {
  const auto at_least = [](const char* flag, double v, double low) -> std::optional<Error> {
    if (std::isfinite(v) && v >= low) return std::nullopt;
    return bad_flag(flag, fmt::format("is {}, must be {} or more", v, low));
  };
  const auto fraction = [](const char* flag, double v) -> std::optional<Error> {
    if (v >= 0 && v < 1) return std::nullopt;
    return bad_flag(flag, fmt::format("is {}, must be in [0, 1)", v));
  };
  for (const auto& e :
       {at_least("iterations", static_cast<double>(o.iterations), 0),
        at_least("minutes", o.minutes, 0), at_least("batch", static_cast<double>(o.batch), 0),
        at_least("crop-steps", static_cast<double>(o.crop_steps), 0),
        at_least("weight-decay", o.weight_decay, 0), at_least("threads", o.threads, 0),
        at_least("stop-after", static_cast<double>(o.stop_after), 0),
        at_least("eval-every", static_cast<double>(o.eval_every), 1),
        at_least("accumulate", static_cast<double>(o.accumulate), 1),
        at_least("checkpoint-every", static_cast<double>(o.checkpoint_every), 1),
        at_least("bin-ms", o.data.bin_ms, 1e-3), at_least("step-ms", o.data.step_ms, 1e-3),
        fraction("mask-units", o.hiding ? o.hiding->units : 0),
        fraction("mask-bins", o.hiding ? o.hiding->bins : 0),
        fraction("fresh-starts", o.fresh_starts.value_or(0)),
        fraction("unit-dropout", o.unit_dropout), fraction("thinning", o.thinning),
        fraction("ema", o.ema)})
    if (e) return *e;
  if (o.hiding && o.hiding->units == 0 && o.hiding->bins == 0)
    return bad_flag("mask-units", "and --mask-bins are 0: nothing would be learned");
  if (!std::isfinite(o.rank_timeout_s) || o.rank_timeout_s <= 0)
    return bad_flag("rank-timeout", fmt::format("is {} s", o.rank_timeout_s));
  if (!std::isfinite(o.lr) || o.lr <= 0) return bad_flag("lr", fmt::format("is {}", o.lr));
  if (!std::isfinite(o.clip) || o.clip <= 0) return bad_flag("clip", fmt::format("is {}", o.clip));
  if (o.learn != "all" && o.learn != "units")
    return bad_flag("learn", fmt::format("is '{}', not all or units", o.learn));
  if (o.learn == "units" && o.init.empty())
    return bad_flag("learn", "units needs --init: everything else stays as that model has it");
  if (o.init_rows != "session" && o.init_rows != "id")
    return bad_flag("init-rows", fmt::format("is '{}', not session or id", o.init_rows));
  for (const std::int64_t trials : o.train_trials)
    if (trials < 0) return bad_flag("train-trials", fmt::format("holds {}", trials));
  if (o.select != "best" && o.select != "last")
    return bad_flag("select", fmt::format("is '{}', not best or last", o.select));
  if (o.out.empty()) return bad_flag("out", "is missing: where should the model go?");
  if (o.data.train_split.empty()) return bad_flag("split-train", "is empty");
  return {};
}

StepOptions step_options(const DataOptions& data) {
  StepOptions step;
  step.bin_ms = data.bin_ms;
  step.step_ms = data.step_ms;
  step.target_offset_ms = data.target_offset_ms.value_or(-data.step_ms / 2);
  if (data.target != "auto") step.target = data.target;
  return step;
}

Result<std::vector<Recording>> load_recordings(const DataOptions& data) {
  if (data.nwb.empty()) return bad_flag("nwb", "is missing: which recording?");
  std::vector<Recording> out;
  for (const std::string& path : data.nwb) {
    auto recording = read_nwb(path);
    if (!recording) return recording.error();
    if (auto said = prepare(*recording, {data.target, data.units, data.split_by}); !said)
      return said.error();
    out.push_back(*std::move(recording));
  }
  if (data.folds && data.fold >= 0) return fold_recordings(out, *data.folds, data.fold);
  return out;
}

Result<UnitsBy> units_by(const DataOptions& data) {
  if (data.units_by == "id") return UnitsBy::id;
  if (data.units_by == "session") return UnitsBy::session;
  return bad_flag("units-by", fmt::format("is '{}', not id or session", data.units_by));
}

Result<Timeline> cut_timeline(const std::vector<Recording>& recordings, const DataOptions& data,
                              const std::string& splits, OtherTrials others) {
  const auto by = units_by(data);
  if (!by) return by.error();
  return make_timeline(recordings, step_options(data), splits, others, data.protocol, *by);
}

Result<ModelConfig> make_config(const TrainOptions& options, const Timeline& timeline) {
  auto preset = find_preset(options.preset);
  if (!preset) return preset.error();
  ModelConfig c = *std::move(preset);
  const ModelOverrides& m = options.model;
  const int head_dim = c.head_dim;
  apply(m.dim, c.dim);
  apply(m.layers, c.layers);
  apply(m.heads, c.heads);
  // A new width keeps the size of a head unless the number of heads was given too.
  if (m.dim && !m.heads) c.heads = std::max(1, c.dim / head_dim);
  c.head_dim = c.heads > 0 ? c.dim / c.heads : 0;
  apply(m.latents, c.latents);
  apply(m.value_buckets, c.value_buckets);
  c.bin_ms = options.data.bin_ms;
  if (!options.hiding) {
    c.output_names = timeline.output_names;
    c.output_units.assign(timeline.dims, timeline.output_unit);
  }
  if (c.kind == ModelKind::window) {
    // About a second, where the preset leaves it open.
    c.window_bins = std::min(c.max_bins, static_cast<int>(std::ceil(1000 / c.bin_ms)));
    apply(m.window_bins, c.window_bins);
    apply(m.receptive_ms, c.receptive_ms);
    if (static_cast<int>(timeline.unit_ids.size()) > c.max_neurons)
      return bad_flag("preset", fmt::format("{} holds {} units, the recording has {}", c.preset,
                                            c.max_neurons, timeline.unit_ids.size()));
  } else {
    c.step_ms = options.data.step_ms;
    apply(m.receptive_steps, c.receptive_steps);
    apply(m.window_steps, c.window_steps);
    c.target_offset_ms = options.data.target_offset_ms.value_or(-c.step_ms / 2);
    // The periods follow the bins and steps actually used.
    c.cross_period_min_ms = c.cross_period_max_ms = 0;
    c.block_period_min_ms = c.block_period_max_ms = 0;
    c.set_defaults();
    c.units.clear();
    for (std::size_t u = 0; u < timeline.unit_ids.size(); ++u)
      c.units.push_back({timeline.unit_ids[u], timeline.unit_sessions[u], std::nullopt,
                         timeline.unit_rates_hz[u]});
  }
  if (const auto ok = c.validate(); !ok) return ok.error();
  return c;
}

TrainOptions resolve(const TrainOptions& options, const ModelConfig& c) {
  TrainOptions o = options;
  const bool stream = c.kind == ModelKind::stream;
  const auto per_step = static_cast<int>(std::lround(o.data.step_ms / c.bin_ms));
  if (o.iterations == 0 && o.minutes == 0) o.iterations = 3000;
  if (o.batch == 0) o.batch = stream ? 16 : 4;
  if (o.crop_steps == 0)
    o.crop_steps = stream ? c.window_steps + 30 : (c.window_bins + per_step - 1) / per_step + 8;
  // Each scored step of a window decoder costs a whole window.
  if (!o.fresh_starts) o.fresh_starts = stream ? 0.5 : 0.0;
  if (o.run_dir.empty()) o.run_dir = o.out + ".run";
  return o;
}

std::string fingerprint(const TrainOptions& o, const ModelConfig& config, const Timeline& timeline,
                        const std::string& device) {
  // Rates and training text are results, not options; the shape of the model is what counts.
  std::string shape;
  for (const TensorSpec& spec : parameter_specs(config))
    shape += spec.name + to_string(spec.shape) + ";";
  return fmt::format(
      "preset={} dim={} layers={} heads={} latents={} buckets={} receptive={} window={} bins={} "
      "reach={} tensors={:016x} bin_ms={} step_ms={} offset={} iterations={} minutes={} seed={} "
      "batch={} crop={} lr={:a} wd={:a} clip={:a} ema={:a} dropout={:a} thinning={:a} fresh={:a} "
      "warmup={} eval={} val={} bf16={} float64={} learn={} init={} rows={} accumulate={} "
      "select={} hide={:a},{:a} device={} data={}",
      o.preset, config.dim, config.layers, config.heads, config.latents, config.value_buckets,
      config.receptive_steps, config.window_steps, config.window_bins, config.receptive_ms,
      std::hash<std::string>{}(shape), o.data.bin_ms, o.data.step_ms, config.target_offset_ms,
      o.iterations, o.minutes, o.seed, o.batch, o.crop_steps, o.lr, o.weight_decay, o.clip, o.ema,
      o.unit_dropout, o.thinning, *o.fresh_starts, o.warmup_iterations, o.eval_every,
      o.data.val_split, o.bf16, o.float64, o.learn, o.init, o.init_rows, o.accumulate, o.select,
      o.hiding ? o.hiding->units : 0.0, o.hiding ? o.hiding->bins : 0.0, device, timeline.digest);
}

}  // namespace cortex::train
