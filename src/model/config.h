#pragma once

#include <cortex/result.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace cortex {

/// `ridge` and `kalman` are streams too, of the classical kind: see linear_model.h.
enum class ModelKind { window, stream, ridge, kalman };
enum class NormKind { rmsnorm, layernorm };

const char* to_string(ModelKind kind);
const char* to_string(NormKind kind);

/// One row of a model's unit table: units are matched by id, never by position.
struct ModelUnit {
  std::string id;
  std::string session;  ///< recording it was trained in
  std::optional<std::int64_t> electrode;
  double rate_hz = 0;  ///< mean rate in the training data
};

/// Shape and meaning of a model; JSON under `__metadata__["cortex.config"]` of its weights file.
struct ModelConfig {
  ModelKind kind = ModelKind::stream;
  std::string preset;
  NormKind norm = NormKind::rmsnorm;

  int dim = 128;  ///< D, width of the residual stream
  int layers = 4;
  int heads = 4;
  int head_dim = 32;  ///< heads * head_dim == dim
  int mlp_ratio = 4;
  int latents = 1;        ///< window: L latents a window; stream: R latents a step
  int value_buckets = 8;  ///< V; values of V and more share the last row

  double bin_ms = 5;

  // Window decoder.
  int max_neurons = 512;
  int max_bins = 1024;      ///< rows of the time embedding
  int window_bins = 0;      ///< nominal length for the receptive field; 0: max_bins
  double receptive_ms = 0;  ///< latent i sees events within this of i/L of the window; 0: all

  // Stream decoder.
  double step_ms = 20;  ///< a whole multiple of bin_ms
  int window_steps =
      50;  ///< W, steps of self-attention, the present one included; kalman: of memory
  /// C, steps of events that cross-attention sees, 1 to 5; ridge: its lags, up to 256.
  int receptive_steps = 3;
  int max_events_per_step = 4096;
  double cross_period_min_ms = 0;  ///< rotary periods; 0 in JSON-less construction: set_defaults()
  double cross_period_max_ms = 0;
  double block_period_min_ms = 0;
  double block_period_max_ms = 0;
  double target_offset_ms = -10;  ///< target time minus the end of its step

  /// Kalman: a step without one spike is a gap, over which the state is only predicted.
  bool skip_empty_steps = false;

  std::vector<std::string> output_names;  ///< one a behaviour dimension
  std::vector<std::string> output_units;
  std::vector<ModelUnit> units;  ///< stream: the unit table
  std::string training_json;     ///< free-form JSON object about how it was trained

  /// Whether it answers every step of a session, whatever its kind.
  bool streams() const { return kind != ModelKind::window; }
  bool linear() const { return kind == ModelKind::ridge || kind == ModelKind::kalman; }
  int outputs() const { return static_cast<int>(output_names.size()); }
  int unit_count() const { return streams() ? static_cast<int>(units.size()) : max_neurons; }
  int hidden() const { return dim * mlp_ratio; }
  /// Window: what window_bins says, its default included.
  int nominal_bins() const { return window_bins > 0 ? window_bins : max_bins; }
  int bins_per_step() const;
  /// Fills the rotary periods that are 0: minimum 4 bins (cross) and 2 steps (blocks), maximum 4
  /// times the span that the attention covers; target offset to the centre of the step.
  void set_defaults();
  /// The least that a linear decoder's session caches: no attention, one step.
  void set_linear_shape();
  /// invalid_argument naming the field and its value.
  Result<void> validate() const;
};

/// One of cortex-xs|s|m, stream-nano|deep|xs|s|m, with outputs vel_x and vel_y in mm/s and no
/// units; not_found lists the names.
Result<ModelConfig> preset_config(const std::string& name);
const std::vector<std::string>& preset_names();

Result<ModelConfig> parse_config(const std::string& json, const std::string& file);
/// The configuration of a published checkpoint (`config.json` beside its weights): a window decoder
/// with layernorm.
Result<ModelConfig> parse_published_config(const std::string& json, const std::string& file);
std::string to_json(const ModelConfig& config);

}  // namespace cortex
