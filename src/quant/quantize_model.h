#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "quant/calibration.h"
#include "quant/quantize_linear.h"

/// Post-training quantisation of a model file, every choice measured:
///
///     const MakeOps ops = [] { return make_cpu_ops({}); };
///     auto done = quantize_model(model, ops, calibration, {.precision = DType::i8});
///     if (!done) return done.error();
///     save_model(path, done->model.config, done->model.tensors);
namespace cortex {

struct QuantizeOptions {
  DType precision = DType::i8;       ///< i8 or bf16
  std::int64_t choice_items = 1000;  ///< counted items that choices are made on
  std::int64_t sample_rows = 256;    ///< inputs kept of each linear
  /// Linears that do most harm for their size are kept in bf16 while that lowers the error and
  /// takes no more than this part of the int8 bytes: nearly free, and mostly the head.
  double spare_bytes = 0.01;
  /// Where all int8 linears together still change the behaviour by more (see output_error), more of
  /// them are kept until it is met.
  double max_error = 0.02;
  /// Called before each run over the calibration with what is measured, for a progress line.
  std::function<void(const std::string&)> progress = {};
};

enum class Kept {
  no,       ///< in the precision asked for
  load,     ///< bf16: only multiplied at load or folded, so int8 would save nothing that stays
  outside,  ///< bf16: not on the way to the behaviour, so its effect is not measured
  hurts     ///< bf16: in int8 it changes the behaviour more than its bytes are worth
};
const char* to_string(Kept kept);

struct QuantizedLayer {
  std::string name;
  Shape shape;
  DType dtype = DType::f32;
  Kept kept = Kept::no;
  std::optional<Clipping> clipping;  ///< i8 alone
  double weight_error = 0;           ///< relative_error of the weights as written
  /// relative_error of the linear's own result over sampled inputs, whose rounding is included;
  /// nothing where no input is seen.
  std::optional<double> linear_error;
  /// output_error of the model with this linear in int8 and all others in bf16, over the choice's
  /// items.
  std::optional<double> effect;
};

struct QuantizeReport {
  std::vector<QuantizedLayer> layers;  ///< every linear, by name
  /// Rule of clipping that was tried ("absmax", "percentile", "mse", "per layer") and the model's
  /// output_error with every int8 linear under it, over the choice's items. Empty for bf16.
  std::vector<std::pair<std::string, double>> rules;
  std::string rule;         ///< the one with the smallest error
  double choice_error = 0;  ///< output_error of the result over the choice's items
  double bf16_error = 0;    ///< of the model with every linear in bf16
  std::int64_t choice_items = 0;
};

struct QuantizedModel {
  ModelFile model;
  QuantizeReport report;
};

/// `model` with its linears in `options.precision`. What is measured is what `make_ops` computes,
/// in host memory: a backend that runs every linear in its weight's precision. Errors: unsupported
/// (the model is int8 already, or f32 is asked for); those of check_calibration.
Result<QuantizedModel> quantize_model(const ModelFile& model, const MakeOps& make_ops,
                                      const Calibration& calibration,
                                      const QuantizeOptions& options);

/// A copy whose linears are float32, whatever they were.
ModelFile widen(const ModelFile& model);

}  // namespace cortex
