#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "model/config.h"
#include "model/forward.h"
#include "model/weights.h"

namespace cortex {

/// The window decoder's forward plan: the published architecture, see docs/architecture.md.
class WindowModel final : public WindowForward {
 public:
  /// Room for `capacity` windows of together `max_events` events.
  WindowModel(const ModelFile& file, Ops& ops, int capacity, std::int64_t max_events);

  std::span<const float> forward() override;
  /// As StreamModel::warm_up().
  void warm_up() override;
  /// Logits over value buckets of the published masked-spike head for the windows of the last
  /// forward, [windows, value_buckets]; empty where the model has no such head.
  std::vector<float> masked_spike_logits();
  /// Weights and projected tables as the backend holds them; activations come on top.
  std::size_t resident_bytes() const;

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
  std::unique_ptr<LinearWeight> pack(LinearTensor linear, bool narrow);
  Norm load_norm(const ModelFile& file, const std::string& name);
  NormArgs args(const Norm& norm) const;
  MatrixView latent_rows(const Buffer& buffer, int cols, DType dtype = DType::f32) const;
  MatrixView residual_rows() const { return latent_rows(z_, config_.dim, residual_); }
  MatrixView activation_rows(const Buffer& buffer, int cols) const;
  /// In inputs_, its room padded to a size that the backend keeps calls of.
  void lay_out_batch(std::int64_t windows, std::int64_t events) override;
  /// The batch and the padding behind it.
  void send_batch();
  void run_batch();
  void run();
  void encode_events();
  /// Folds the head's query into its keys and its output into its values: neither has input in it.
  void fold_head(const ModelFile& file);
  void project_token_tables(const ModelFile& file);
  /// What the mean square of a token is the sum of.
  void square_token_tables(const ModelFile& file);
  void run_blocks();

  ModelConfig config_;
  Ops& ops_;
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
  std::vector<TransformerBlock> block_args_;  // of them
  Norm final_norm_;
  Norm head_norm_;
  std::unique_ptr<LinearWeight> head_score_;  // [outputs * heads, D]
  std::unique_ptr<LinearWeight> head_value_;  // [1, heads * D]
  std::unique_ptr<LinearWeight> spike_head_;
  Buffer spike_bias_;
  std::vector<float> output_mean_;
  std::vector<float> output_std_;

  DType activation_ = DType::f32;
  DType residual_ = DType::f32;
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
