#pragma once

#include <cortex/events.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "model/config.h"
#include "model/forward.h"
#include "model/rotary.h"
#include "model/weights.h"

namespace cortex {

/// The pool of K and V that a stream model works on; it outlives the model.
struct StreamPages {
  std::byte* pool = nullptr;
  std::int64_t page_bytes = 0;
  int page_steps = 0;
  DType dtype = DType::f32;
};

/// The stream decoder's forward plan: R new rows a step, over a paged cache. DESIGN: published
/// Perceiver encoder made causal, see docs/architecture.md for the formulas.
class StreamModel final : public StreamForward {
 public:
  /// Uploads the weights and projects the tables. `capacity`: most steps a forward takes. `lanes`:
  /// batches on their way at once; where the backend computes as it is called, one is enough.
  StreamModel(const ModelFile& file, Ops& ops, int capacity, const StreamPages& pages,
              int lanes = 1);

  /// Appends K and V of each step of the batch to its pages.
  void launch(int lane) override;
  std::span<const float> finish(int lane) override;
  /// Where the backend keeps calls: runs an empty batch of every size that it tells apart, so that
  /// from then on no forward is a first one.
  void warm_up() override;
  /// Weights and projected tables as the backend holds them; activations and the pool of pages come
  /// on top.
  std::size_t resident_bytes() const;

  const ModelConfig& config() const { return config_; }

 private:
  struct Block {
    std::string name;
    Buffer norm_attn;
    Buffer norm_mlp;
    std::unique_ptr<LinearWeight> qkv;
    std::unique_ptr<LinearWeight> out;
    std::unique_ptr<LinearWeight> up;
    std::unique_ptr<LinearWeight> down;
  };

  /// What a batch brings and takes away; all else serves one batch after the other.
  struct Lane {
    // Its events from events_at_ on, and all else so that it ends there, one run to send whose
    // addresses depend on the padded number of steps alone.
    SharedBuffer inputs;
    SharedBuffer y;
    std::vector<float> host_y;
    PhaseArgs phases;
    StreamEvents events;
    PagedKv cache;
  };

  Buffer upload(std::span<const float> values);
  /// Uploads for as long as the model lives.
  const float* keep(std::span<const float> values);
  /// norm(rows) W^T in float32, whatever the precision of the weight.
  std::vector<float> project(const NormArgs& norm, std::span<const float> rows,
                             const LinearTensor& linear);
  /// scale * q . k of every head of rows of queries [.., dim] and one key [dim]: [heads, rows].
  std::vector<float> head_products(std::span<const float> query, std::span<const float> key) const;
  void project_scores(std::span<const float> unit_kv, std::span<const float> value_kv,
                      std::span<const float> query);
  void project_tables(const ModelFile& file);
  void reserve_lanes(std::size_t steps, std::size_t events);
  /// Of the batch without its events, padded to `steps` steps.
  std::size_t header_bytes(std::size_t steps) const;
  /// Lays the batch, padded to `steps` steps, into shared memory.
  void send_batch(const StreamBatch& batch, int steps, Lane& lane);
  void launch_padded(int lane, int steps);
  void run(int steps, const Lane& lane);
  NormArgs rms(const Buffer& gain) const;

  ModelConfig config_;
  Ops& ops_;
  int capacity_ = 0;
  StreamPages pages_;
  Rotary block_rotary_;

  StreamTables tables_;
  std::vector<Buffer> table_buffers_;  // own what tables_ points to
  std::unique_ptr<LinearWeight> cross_out_;
  std::vector<Block> blocks_;
  std::vector<TransformerBlock> block_args_;  // of blocks_
  Buffer final_norm_;
  std::unique_ptr<LinearWeight> head_;
  Buffer head_bias_;
  std::vector<float> output_mean_;
  std::vector<float> output_std_;

  // Activations, [capacity * R, ..]
  Buffer z_;
  Buffer qkv_;
  Buffer attention_;
  Buffer hidden_;
  Buffer normed_;
  DType activation_ = DType::f32;
  std::vector<Lane> lanes_;
  std::size_t events_at_ = 0;
  int page_count_ = 0;  // of a stream
  Buffer periods_;
  Buffer cosines_;
  Buffer sines_;
};

}  // namespace cortex
