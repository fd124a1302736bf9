#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "model/config.h"
#include "model/weights.h"

namespace cortex {

/// Windows of events, packed: no padding.
struct WindowBatch {
  std::vector<std::int32_t> indptr = {0};  ///< [windows + 1]
  std::vector<std::int32_t> neuron;
  std::vector<std::int32_t> bin;
  std::vector<std::int32_t> value;
  std::vector<double> window_bins;  ///< [windows] nominal length, for the receptive field

  int windows() const { return static_cast<int>(window_bins.size()); }
  /// Room for `count` windows of together `events` events.
  void reserve(int count, std::int64_t events);
  void clear();
};

/// The window decoder's forward plan: the published architecture, see docs/architecture.md.
class WindowModel {
 public:
  /// Room for `capacity` windows of together `max_events` events.
  WindowModel(const ModelFile& file, Ops& ops, int capacity, std::int64_t max_events);

  /// Behaviour in physical units, [windows, outputs], valid until the next call.
  std::span<const float> forward(const WindowBatch& batch);
  /// As StreamModel::warm_up().
  void warm_up();
  /// Logits over value buckets of the published masked-spike head for the windows of the last
  /// forward, [windows, value_buckets]; empty where the model has no such head.
  std::vector<float> masked_spike_logits();

  const ModelConfig& config() const { return config_; }

 private:
  struct Norm {
    Buffer gain;
    Buffer bias;
  };
  struct Block {
    std::string name;
    Norm norm_attn;
    Norm norm_mlp;
    std::unique_ptr<LinearWeight> qkv;
    std::unique_ptr<LinearWeight> out;
    std::unique_ptr<LinearWeight> up;
    std::unique_ptr<LinearWeight> down;
  };

  Buffer upload(std::span<const float> values);
  std::unique_ptr<LinearWeight> pack(LinearTensor linear);
  Norm load_norm(const ModelFile& file, const std::string& name);
  NormArgs args(const Norm& norm) const;
  MatrixView latent_rows(const Buffer& buffer, int cols) const;
  MatrixView activation_rows(const Buffer& buffer, int cols) const;
  /// Lays the batch, padded to `windows` windows and `events` events, into shared memory.
  void send_batch(const WindowBatch& batch, std::int64_t windows, std::int64_t events);
  void forward_padded(const WindowBatch& batch, std::int64_t windows, std::int64_t events);
  void run();
  void encode_events();
  /// Folds the head's query into its keys and its output into its values: neither has input in it.
  void fold_head(const ModelFile& file);
  void project_token_tables(const ModelFile& file);
  /// What the mean square of a token is the sum of.
  void square_token_tables(const ModelFile& file);
  void run_block(const Block& block);

  ModelConfig config_;
  Ops& ops_;
  int capacity_ = 0;
  std::int64_t max_events_ = 0;
  int windows_ = 0;  // padded

  Buffer neuron_table_;
  Buffer time_table_;
  Buffer value_table_;
  Buffer latents_;
  Buffer cross_query_;          // [L, D], as activations are: no input in it
  TokenProjection projection_;  // the cross-attention's K and V
  std::vector<Buffer> projected_;
  std::unique_ptr<LinearWeight> cross_out_;
  std::vector<Block> blocks_;
  Norm final_norm_;
  Norm head_norm_;
  std::unique_ptr<LinearWeight> head_score_;  // [outputs * heads, D]
  std::unique_ptr<LinearWeight> head_value_;  // [1, heads * D]
  std::unique_ptr<LinearWeight> spike_head_;
  Buffer spike_bias_;
  std::vector<float> output_mean_;
  std::vector<float> output_std_;

  DType activation_ = DType::f32;
  SharedBuffer inputs_;  // the batch
  TokenArgs tokens_;
  const std::int32_t* indptr_ = nullptr;
  const double* item_bins_ = nullptr;
  Buffer latent_indptr_;
  Buffer kv_;
  Buffer z_;
  Buffer qkv_;
  Buffer attention_;
  Buffer hidden_;
  Buffer final_;
  Buffer head_scores_;  // [rows, outputs * heads]
  Buffer head_pooled_;  // [windows * outputs, heads * D]
  SharedBuffer y_;
  Buffer logits_;
  std::vector<float> host_y_;
};

}  // namespace cortex
