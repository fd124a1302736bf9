#include "quant/quantize_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "quant/pack_once.h"

namespace cortex {
namespace {

constexpr const char* kPerLayer = "per layer";

Kept why_kept(const ModelConfig& config, const std::string& name) {
  const auto is = [&](std::initializer_list<const char*> names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  // Their products with tables and queries are made at load, in float32, and it is those that stay
  // in memory.
  if (config.kind == ModelKind::stream) return is({"cross.q", "cross.kv"}) ? Kept::load : Kept::no;
  if (is({"encoder.cross_attn.q_proj.weight", "encoder.cross_attn.kv_proj.weight",
          "behavior_head.q_proj.weight", "behavior_head.kv_proj.weight",
          "behavior_head.out_proj.weight"}))
    return Kept::load;
  return is({"masked_spike_head.proj.weight"}) ? Kept::outside : Kept::no;
}

/// What a linear makes of `rows` in its own precision.
std::vector<float> apply(Ops& ops, const LinearTensor& linear, const Tensor& rows) {
  const auto packed = ops.pack_linear(linear);
  const Buffer in = ops.allocate(rows.bytes());
  ops.upload(in, rows.data(), rows.bytes());
  std::vector<float> result(static_cast<std::size_t>(rows.size(0) * packed->out()));
  const Buffer out = ops.allocate(result.size() * sizeof(float));
  OpsCapacity most;
  most.rows = rows.size(0);
  most.inputs = rows.size(1);
  ops.reserve(most);
  ops.norm_linear({}, matrix(in.f32(), rows.size(0), rows.size(1)), *packed, nullptr,
                  Epilogue::store, matrix(out.f32(), rows.size(0), packed->out()));
  ops.download(result.data(), out.f32(), result.size() * sizeof(float));
  return result;
}

/// A linear that may become int8, under every rule of clipping.
struct Candidate {
  std::size_t layer = 0;  // in the report
  std::array<QuantizedLinear, kClippings.size()> variants;
  std::array<double, kClippings.size()> linear_errors{};
  std::size_t best = 0;    // variant with the smallest error of the linear itself
  std::size_t chosen = 0;  // variant under the model's rule
};

class Quantizer {
 public:
  Quantizer(const ModelFile& model, const MakeOps& make_ops, const Calibration& calibration,
            const QuantizeOptions& options)
      : options_(options),
        calibration_(calibration),
        ops_(make_ops()),
        run_ops_(make_ops()),
        packed_(*run_ops_),
        items_(calibration.items_with(options.choice_items)),
        float_(widen(model)),
        work_(widen(model)) {
    say("the float model");
    reference_ = run_model(float_, make_ops, calibration_, items_);
    inputs_ = sample_inputs(float_, make_ops, calibration_, items_, options_.sample_rows);
    report_.choice_items = std::count(calibration_.counted.begin(),
                                      calibration_.counted.begin() + items_, std::uint8_t{1});
    for (const auto& specs : {tensor_specs(model.config), optional_specs(model.config)})
      for (const TensorSpec& spec : specs)
        if (spec.linear && float_.tensors.count(spec.name)) report_.layers.push_back(layer(spec));
    std::sort(report_.layers.begin(), report_.layers.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
  }

  QuantizedModel run() {
    if (options_.precision == DType::i8) {
      make_candidates();
      choose_rule();
      measure_effects();
      keep_what_hurts();
    } else {
      for (const QuantizedLayer& l : report_.layers) narrow(l);
      report_.choice_error = report_.bf16_error = error("every linear in bf16");
    }
    for (QuantizedLayer& l : report_.layers) describe(l);
    return {std::move(work_), std::move(report_)};
  }

 private:
  QuantizedLayer layer(const TensorSpec& spec) const {
    QuantizedLayer l;
    l.name = spec.name;
    l.shape = spec.shape;
    if (options_.precision == DType::i8) l.kept = why_kept(float_.config, spec.name);
    return l;
  }

  void say(const std::string& what) const {
    if (options_.progress) options_.progress(what);
  }

  double error(const std::string& what) {
    say(what);
    // Every such run has narrow linears, so one backend serves them all.
    packed_.next_run();
    const auto behavior = run_model(
        work_, [this] { return std::make_unique<ForwardingOps>(static_cast<Ops&>(packed_)); },
        calibration_, items_);
    return output_error(behavior, reference_, calibration_.counted,
                        static_cast<std::size_t>(float_.config.outputs()));
  }

  void set(const std::string& name, const Tensor& weight, const Tensor* scale) {
    work_.tensors.insert_or_assign(name, weight.clone());
    work_.tensors.erase(scale_name(name));
    if (scale) work_.tensors.emplace(scale_name(name), scale->clone());
  }
  void set(const Candidate& c, std::size_t variant) {
    const QuantizedLinear& q = c.variants[variant];
    set(report_.layers[c.layer].name, q.weight, &q.scale);
  }
  void narrow(const QuantizedLayer& l) { set(l.name, to_bfloat16(float_.at(l.name)), nullptr); }

  /// Error of the linear's own result over the sampled inputs, if there are any.
  std::optional<double> linear_error(const std::string& name, const LinearTensor& linear) {
    const auto rows = inputs_.find(name);
    if (rows == inputs_.end()) return std::nullopt;
    auto& exact = exact_[name];
    if (exact.empty()) exact = apply(*ops_, float_.linear(name), rows->second);
    return relative_error(apply(*ops_, linear, rows->second), exact);
  }

  void make_candidates() {
    for (std::size_t i = 0; i < report_.layers.size(); ++i) {
      const QuantizedLayer& l = report_.layers[i];
      if (l.kept != Kept::no) {
        narrow(l);
        continue;
      }
      say(fmt::format("{}: clipping", l.name));
      Candidate c;
      c.layer = i;
      for (std::size_t v = 0; v < kClippings.size(); ++v) {
        c.variants[v] = quantize_rows(float_.at(l.name), kClippings[v]);
        c.linear_errors[v] = linear_error(l.name, c.variants[v].view()).value_or(0);
        // Of equals the first, which clips least.
        if (c.linear_errors[v] < c.linear_errors[c.best]) c.best = v;
      }
      candidates_.push_back(std::move(c));
    }
  }

  void choose_rule() {
    double least = 0;
    for (std::size_t rule = 0; rule <= kClippings.size(); ++rule) {
      const bool mixed = rule == kClippings.size();
      for (const Candidate& c : candidates_) set(c, mixed ? c.best : rule);
      const std::string name = mixed ? kPerLayer : to_string(kClippings[rule]);
      const double e = error(fmt::format("every linear in int8, clipping {}", name));
      report_.rules.emplace_back(name, e);
      if (rule > 0 && e >= least) continue;
      least = e;
      report_.rule = name;
      for (Candidate& c : candidates_) c.chosen = mixed ? c.best : rule;
    }
    report_.choice_error = least;
  }

  /// Each candidate alone in int8, the others in bf16, which is what they may be kept in.
  void measure_effects() {
    for (const Candidate& c : candidates_) narrow(report_.layers[c.layer]);
    report_.bf16_error = error("every linear in bf16");
    for (const Candidate& c : candidates_) {
      QuantizedLayer& l = report_.layers[c.layer];
      set(c, c.chosen);
      l.effect = error(fmt::format("{} alone in int8", l.name));
      narrow(l);
    }
    for (const Candidate& c : candidates_) set(c, c.chosen);
  }

  /// Errors of separate linears add up in squares; a linear in bf16 costs a byte a weight more.
  double harm(const Candidate& c) const {
    const QuantizedLayer& l = report_.layers[c.layer];
    const double own = *l.effect * *l.effect - report_.bf16_error * report_.bf16_error;
    return own / static_cast<double>(element_count(l.shape));
  }

  void keep_what_hurts() {
    std::vector<const Candidate*> worst;
    double spare = 0;
    for (const Candidate& c : candidates_) {
      worst.push_back(&c);
      spare +=
          options_.spare_bytes * static_cast<double>(element_count(report_.layers[c.layer].shape));
    }
    std::stable_sort(worst.begin(), worst.end(),
                     [&](const auto* a, const auto* b) { return harm(*a) > harm(*b); });
    for (const Candidate* c : worst) {
      QuantizedLayer& l = report_.layers[c->layer];
      const auto cost = static_cast<double>(element_count(l.shape));
      const bool over = report_.choice_error > options_.max_error;
      if (!over && cost > spare) continue;
      narrow(l);
      const double e = error(fmt::format("{} back in bf16", l.name));
      if (!over && e >= report_.choice_error) {
        set(*c, c->chosen);
        continue;
      }
      l.kept = Kept::hurts;
      report_.choice_error = e;
      spare -= cost;
    }
  }

  void describe(QuantizedLayer& l) {
    const LinearTensor linear = work_.linear(l.name);
    l.dtype = linear.weight.dtype();
    l.weight_error = relative_error(to_float(linear.weight, linear.scale), float_.at(l.name));
    l.linear_error = linear_error(l.name, linear);
    if (l.dtype != DType::i8) return;
    for (const Candidate& c : candidates_)
      if (report_.layers[c.layer].name == l.name) l.clipping = kClippings[c.chosen];
  }

  const QuantizeOptions& options_;
  const Calibration& calibration_;
  std::unique_ptr<Ops> ops_;      // for single linears
  std::unique_ptr<Ops> run_ops_;  // for whole runs
  PackOnce packed_;
  std::int64_t items_;
  ModelFile float_;
  ModelFile work_;
  std::vector<float> reference_;
  std::map<std::string, Tensor> inputs_;
  std::map<std::string, std::vector<float>> exact_;
  std::vector<Candidate> candidates_;
  QuantizeReport report_;
};

}  // namespace

const char* to_string(Kept kept) {
  switch (kept) {
    case Kept::no:
      return "";
    case Kept::load:
      return "load";
    case Kept::outside:
      return "outside";
    case Kept::hurts:
      return "hurts";
  }
  return "";
}

ModelFile widen(const ModelFile& model) {
  ModelFile wide;
  wide.config = model.config;
  wide.digest = model.digest;
  for (const TensorSpec& spec : tensor_specs(model.config)) {
    const LinearTensor linear = model.linear(spec.name);
    wide.tensors.emplace(spec.name, to_float(linear.weight, linear.scale));
  }
  for (const TensorSpec& spec : optional_specs(model.config)) {
    if (model.tensors.count(spec.name) == 0) continue;
    const LinearTensor linear = model.linear(spec.name);
    wide.tensors.emplace(spec.name, to_float(linear.weight, linear.scale));
  }
  return wide;
}

Result<QuantizedModel> quantize_model(const ModelFile& model, const MakeOps& make_ops,
                                      const Calibration& calibration,
                                      const QuantizeOptions& options) {
  if (options.precision == DType::f32)
    return Error{ErrorCode::unsupported, "precision is int8 or bf16", "precision"};
  if (model.precision() == DType::i8)
    return Error{ErrorCode::unsupported,
                 "the model is int8 already: quantise the float model that it was made from",
                 "model"};
  if (const auto ok = check_calibration(model.config, calibration); !ok) return ok.error();
  return Quantizer(model, make_ops, calibration, options).run();
}

}  // namespace cortex
