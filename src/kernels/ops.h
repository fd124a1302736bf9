#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numbers>
#include <span>
#include <stdexcept>

#include "tensor/tensor.h"

/// One contract per operation. A backend implements `Ops`; the forward plans in model/ are written
/// once over it. Pointers named below are in the backend's memory unless they say host.
///
/// Every reduction's order is a function of the operation and the reduced length alone, never of
/// how many rows or items a call holds: on one backend, equal inputs give equal bits alone or in
/// any batch.
namespace cortex {

/// A device failed; what lay in its memory must be taken for lost.
class DeviceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Memory of a backend: moves, frees itself.
class Buffer {
 public:
  using Free = void (*)(void*);
  Buffer() = default;
  Buffer(void* data, std::size_t bytes, Free free) : data_(data, free), bytes_(bytes) {}
  template <class T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }
  float* f32() const { return as<float>(); }
  std::size_t bytes() const { return bytes_; }

 private:
  std::unique_ptr<void, Free> data_{nullptr, nullptr};
  std::size_t bytes_ = 0;
};

/// Memory that the host and a backend both see: one and the same on the CPU.
enum class SharedUse { input, output };
struct SharedBuffer {
  Buffer device;
  Buffer host;
  Buffer arrival;  ///< the backend's own, of an output that is on its way
};

/// A row-major matrix that somebody else owns; `stride` elements from row to row.
struct MatrixView {
  float* data = nullptr;  ///< where `dtype` is another: of its elements
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;
  DType dtype = DType::f32;

  MatrixView from_column(std::int64_t column) const {
    MatrixView part = *this;
    part.data = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(data) +
                                         column * static_cast<std::int64_t>(size_of(dtype)));
    part.cols -= column;
    return part;
  }
};
inline MatrixView matrix(float* data, std::int64_t rows, std::int64_t cols,
                         DType dtype = DType::f32) {
  return {data, rows, cols, cols, dtype};
}

/// A linear's weight as a model file holds it, [out, in]: its dtype is the precision to compute in.
/// f32: float32. bf16: activations are rounded to bf16, sums are float32. i8: activations are
/// quantised per row (symmetric, to the row's largest magnitude), sums are int32, and the result is
/// scaled by `scale[out]` times the row's own scale.
struct LinearTensor {
  const Tensor& weight;
  const Tensor* scale = nullptr;  ///< [out] f32, i8 alone
  /// [in] f32, of the RMS norm that every norm_linear of this weight comes with, or null: a backend
  /// may fold it into the weight.
  const Tensor* gain = nullptr;
  /// A row's bits may depend on its batch: windows promise a tolerance, streams promise bits.
  bool any_order = false;
  /// May run in 8-bit floats where the backend was asked to; a GELU's result is then read by one
  /// linear of this kind and by nothing else.
  bool narrow = false;
};

/// The same weight in the form that a backend multiplies by.
class LinearWeight {
 public:
  LinearWeight(std::int64_t out, std::int64_t in) : out_(out), in_(in) {}
  virtual ~LinearWeight() = default;
  std::int64_t out() const { return out_; }
  std::int64_t in() const { return in_; }
  /// Of the backend's memory, padding and scales included.
  virtual std::size_t bytes() const = 0;

 private:
  std::int64_t out_;
  std::int64_t in_;
};

struct NormArgs {
  enum class Kind { none, rms, layer } kind = Kind::none;
  const float* gain = nullptr;  ///< [in]
  const float* bias = nullptr;  ///< [in], layer only
  float eps = 0;
};

/// What becomes of a linear's result y: kept, GELU(y) in its exact form, or added to what is there.
enum class Epilogue { store, gelu, add };

/// Attention of `items` groups of queries, each over its own span of packed keys.
/// out[i, h] = sum_j softmax_j(scale q_i,h . k_j,h) v_j,h over the keys j of i's item that the mask
/// lets through; 0 where there is none.
struct RaggedAttentionArgs {
  int items = 0;
  int heads = 0;
  int head_dim = 0;
  std::int64_t queries = 0;  ///< an item
  MatrixView q;              ///< [items * queries, heads * head_dim], or [queries, ..] if shared
  bool shared_q = false;
  MatrixView k;  ///< [keys, heads * head_dim]
  MatrixView v;
  const std::int32_t* indptr = nullptr;  ///< [items + 1] into keys
  MatrixView out;                        ///< [items * queries, heads * head_dim]

  /// Block-sparse mask: query i sees key j only if |i * bins / queries - bin_j| <= reach_bins.
  /// Per key, so no result depends on a tile's size.
  const std::int32_t* key_bins = nullptr;  ///< [keys]; null: dense
  double reach_bins = 0;
  const double* item_bins = nullptr;  ///< [items], nominal bins of each window
};

/// Answers of windows: attention of one query an output and head over the window's latents, folded
/// so that neither keys nor values are projected. With keys = second(first(x)):
///   score[r, o, h] = keys[r] . score weight[o * heads + h]
///   out[i, o]      = sum_h value weight[h] . sum_r softmax_r(score[r, o, h]) keys[r]
/// over the rows r of item i.
struct LatentHeadArgs {
  int heads = 0;
  std::int64_t latents = 0;  ///< rows of an item
  NormArgs first;
  NormArgs second;
  MatrixView x;                         ///< [items * latents, dim]
  const LinearWeight* score = nullptr;  ///< [outputs * heads, dim], packed from float32
  const LinearWeight* value = nullptr;  ///< [1, heads * dim], packed from float32
  MatrixView out;                       ///< [items, outputs], float32

  /// Room for what lies between; holds nothing afterwards.
  MatrixView keys;    ///< [items * latents, dim]
  MatrixView scores;  ///< [items * latents, outputs * heads], float32
  MatrixView pooled;  ///< [items * outputs * heads, dim], float32
};

/// Events of windows: an event's token is the sum of three embedding rows.
struct TokenArgs {
  const float* neuron_table = nullptr;  ///< [neurons, dim]
  const float* time_table = nullptr;
  const float* value_table = nullptr;
  int dim = 0;
  int value_buckets = 0;  ///< larger values share the last row
  std::int64_t events = 0;
  const std::int32_t* neuron = nullptr;  ///< [events]
  const std::int32_t* bin = nullptr;
  const std::int32_t* value = nullptr;
};

/// A norm's and a linear's part of the tokens' K and V that no event changes. The norm's gain g and
/// bias b fold into the weight W:
///   W (rstd (x - mean) g + b) = rstd (W g x - mean W g) + W b,  W g x = a sum of three table rows,
/// so only the row's statistics are left to compute.
struct TokenProjection {
  NormArgs::Kind norm = NormArgs::Kind::rms;
  float eps = 0;
  DType dtype = DType::f32;            ///< of the tables: f32 or bf16
  std::int64_t width = 0;              ///< 2 dim, K then V
  const void* neuron_table = nullptr;  ///< [neurons, width]
  const void* time_table = nullptr;
  const void* value_table = nullptr;
  /// Mean square of a token, rms alone: the sum of a part of its neuron and time, of its neuron and
  /// value, and of its time and value. Null: to be had from the rows of TokenArgs.
  const float* neuron_time = nullptr;   ///< [neurons, bins]
  const float* neuron_value = nullptr;  ///< [neurons, value_buckets]
  const float* time_value = nullptr;    ///< [bins, value_buckets]
  std::int64_t bins = 0;
  const float* mean_factor = nullptr;  ///< W g [width], layer norm alone
  const float* bias = nullptr;         ///< W b [width], layer norm alone
};

/// An event as a step sees it.
struct StreamEvent {
  std::int32_t unit = 0;    ///< row of the model's unit table
  std::int32_t value = 0;   ///< raw count, at least 1
  std::int32_t offset = 0;  ///< whole bins between the event's bin and the step's end
};

/// Recent events of `steps` streams, packed: oldest step first, by (bin, unit) within a step.
struct StreamEvents {
  int steps = 0;                          ///< streams in this batch, one step each
  const std::int32_t* indptr = nullptr;   ///< [steps + 1]
  const std::int32_t* present = nullptr;  ///< [steps] index of the first event of the step itself
  const StreamEvent* event = nullptr;
};

/// What a stream model projects once at load, since an event's token has no time in it and the
/// cross-attention's query no input. A token's K and V are rstd[u, v] times a sum of a unit's and a
/// value's row; a rotated score is linear in K, so it is such a sum too, by the event's offset:
///   score[h, r] = rstd[u, v] * (unit_score[u, offset] + value_score[v, offset])[h, r]
///   V           = rstd[u, v] * (unit_v[u] + value_v[v])
struct StreamTables {
  int dim = 0;
  int heads = 0;
  int head_dim = 0;
  int latents = 0;  ///< R
  int value_buckets = 0;
  int offsets = 0;                     ///< bins of the receptive steps
  const float* unit_score = nullptr;   ///< [units, offsets, heads * R], scaled
  const float* value_score = nullptr;  ///< [value_buckets, offsets, heads * R], scaled
  const float* unit_v = nullptr;       ///< [units, dim]
  const float* value_v = nullptr;      ///< [value_buckets, dim]
  const float* rstd = nullptr;         ///< [units, value_buckets]
  const float* null_score = nullptr;   ///< [heads, R], scaled
  const float* null_v = nullptr;       ///< [dim]
  const float* latent = nullptr;       ///< [R, dim]
  const float* additive = nullptr;     ///< [units, R * dim]
};

/// K and V of every layer for whole steps, in pages of one pool. A page holds, for each layer, K
/// and V of page_steps steps, ordered as the backend likes. Step s of a stream lives in its slot s
/// mod W, which is step (slot mod page_steps) of page pages[indptr[b] + slot / page_steps]. The
/// pool starts zeroed.
struct PagedKv {
  std::byte* pool = nullptr;
  std::int64_t page_bytes = 0;
  DType dtype = DType::f32;  ///< as the backend's cache_dtype has it
  int page_steps = 0;
  int window_steps = 0;                  ///< W
  const std::int32_t* indptr = nullptr;  ///< [steps + 1] into pages
  const std::int32_t* pages = nullptr;
  const std::int32_t* slot = nullptr;  ///< [steps] of the present step
  /// [steps] steps to attend to, the present one included; 0: no stream, nothing is put in a page
  const std::int32_t* live = nullptr;
};

/// Rotation by time: the angle of pair i at the end of a step is 2 pi t / periods_ms[i], t reduced
/// modulo the period exactly before it is multiplied, so bin 10^9 is as good as bin 0.
struct PhaseArgs {
  int steps = 0;
  const std::int64_t* step = nullptr;  ///< [steps] numbers; a step ends at (number + 1) * step_ms
  double step_ms = 0;
  int pairs = 0;
  const double* periods_ms = nullptr;  ///< [pairs]
  float* cosines = nullptr;            ///< [steps, pairs]
  float* sines = nullptr;
};

/// cos then sin of 2 pi t / period, one of each a period.
inline void time_phases(double t_ms, std::span<const double> periods_ms, float* cosines,
                        float* sines) {
  for (std::size_t i = 0; i < periods_ms.size(); ++i) {
    const double angle = 2 * std::numbers::pi * (std::fmod(t_ms, periods_ms[i]) / periods_ms[i]);
    cosines[i] = static_cast<float>(std::cos(angle));
    sines[i] = static_cast<float>(std::sin(angle));
  }
}

struct PagedAttentionArgs {
  int steps = 0;
  int heads = 0;
  int head_dim = 0;
  int latents = 0;  ///< R
  int layer = 0;
  MatrixView qkv;                  ///< [steps * R, 3 dim]: q, k, v
  const float* cosines = nullptr;  ///< [steps, head_dim / 2] of the end of the step
  const float* sines = nullptr;
  PagedKv cache;
  MatrixView out;  ///< [steps * R, dim]
};

/// A block of a model: z += out(attention(qkv(norm_attn(z)))), then z += down(gelu(up(
/// norm_mlp(z)))).
struct TransformerBlock {
  const char* name = "";  ///< outlives the forward
  NormArgs norm_attn;
  NormArgs norm_mlp;
  const LinearWeight* qkv = nullptr;   ///< [3 dim, dim]
  const LinearWeight* out = nullptr;   ///< [dim, dim]
  const LinearWeight* up = nullptr;    ///< [hidden, dim]
  const LinearWeight* down = nullptr;  ///< [dim, hidden]
};

struct StreamBlocksArgs {
  const LinearWeight* cross_out = nullptr;  ///< [dim, dim]
  std::span<const TransformerBlock> blocks;
  /// Of every block, `layer` its number. `out` holds the cross-attention at first; as `qkv` it is
  /// room for what lies between, and holds nothing afterwards.
  PagedAttentionArgs attention;
  MatrixView z;       ///< [steps * R, dim] float32, the residual stream
  MatrixView hidden;  ///< [steps * R, hidden], room
};

struct WindowBlocksArgs {
  MatrixView latents;                       ///< [queries, dim], as z
  const LinearWeight* cross_out = nullptr;  ///< [dim, dim]
  std::span<const TransformerBlock> blocks;
  /// Of every block: among the latents of a window, without a mask. q, k and v are columns of
  /// `qkv`. `out` holds the cross-attention at first.
  RaggedAttentionArgs attention;
  MatrixView z;  ///< [items * queries, dim], the result: the residual stream

  /// Room for what lies between, as is `attention.out`; holds nothing afterwards.
  MatrixView qkv;     ///< [items * queries, 3 dim]
  MatrixView hidden;  ///< [items * queries, hidden]
};

/// Sizes of the largest calls that a forward plan makes.
struct OpsCapacity {
  std::int64_t rows = 0;     ///< of a linear
  std::int64_t inputs = 0;   ///< of a linear
  std::int64_t queries = 0;  ///< ragged attention: queries of all items
  std::int64_t keys = 0;     ///< of one item, whole pages of a stream
  int latents = 0;           ///< of a stream
  int head_dim = 0;
};

/// What a forward's calls depend on besides the contents of memory: equal keys, equal calls.
struct ForwardKey {
  const void* plan = nullptr;
  std::int64_t items = 0;
  std::int64_t events = 0;
  bool operator==(const ForwardKey&) const = default;
};

/// Used by one thread at a time: it owns the scratch of its operations. What has a body here is
/// meant for backends of host memory.
class Ops {
 public:
  virtual ~Ops() = default;
  virtual const char* name() const = 0;

  /// The device failed, in a call of this or of another backend's on it: no further call succeeds.
  virtual bool lost() const { return false; }
  /// Bytes in use of the whole device; -1: host memory.
  virtual std::int64_t device_memory_used() const { return -1; }
  /// Uninitialised; std::bad_alloc when there is none.
  virtual Buffer allocate(std::size_t bytes) = 0;
  virtual void clear(const Buffer& buffer) = 0;  ///< to zero bytes
  virtual void upload(const Buffer& to, const void* host, std::size_t bytes) = 0;
  virtual void download(void* host, const float* from, std::size_t bytes) = 0;
  /// For what every forward takes in or gives out. Host memory that is written before send() is
  /// what the calls after it see; what calls wrote is in host memory after expect() and receive().
  virtual SharedBuffer allocate_shared(SharedUse use, std::size_t bytes) {
    (void)use;
    Buffer memory = allocate(bytes);
    Buffer same(memory.as<void>(), bytes, [](void*) {});
    return {std::move(memory), std::move(same), {}};
  }
  virtual void send(const SharedBuffer& buffer, std::size_t offset, std::size_t bytes) {
    (void)buffer, (void)offset, (void)bytes;
  }
  /// Within a forward, after its calls: what they write to the buffer is in host memory after the
  /// next receive() of it, which does not wait for calls that come later.
  virtual void expect(const SharedBuffer& buffer) { (void)buffer; }
  virtual void receive(const SharedBuffer& buffer, std::size_t bytes) { (void)buffer, (void)bytes; }
  virtual std::unique_ptr<LinearWeight> pack_linear(const LinearTensor& linear) = 0;
  /// What K and V are kept in for a model whose linears are of `weights`.
  virtual DType cache_dtype(DType weights) const = 0;
  /// What lies between two operations of such a model: all but the residual stream and results.
  virtual DType activation_dtype(DType weights) const {
    (void)weights;
    return DType::f32;
  }
  /// The residual stream, `dim` wide, of a model whose rows may depend on their batch.
  virtual DType residual_dtype(DType weights, std::int64_t dim) const {
    (void)weights, (void)dim;
    return DType::f32;
  }
  /// Makes room for calls of up to this size, so that none allocates later.
  virtual void reserve(const OpsCapacity& capacity) = 0;

  /// Bracket the calls of one forward, so that a backend may keep its threads awake between them.
  virtual void begin_forward() {}
  virtual void end_forward() {}
  /// Whether a forward whose calls were never made before takes longer than the ones after it.
  virtual bool keeps_calls() const { return false; }
  /// What a plan pads a forward to, so that few keys occur.
  virtual std::int64_t rounded_items(std::int64_t count) const { return count; }
  virtual std::int64_t rounded_events(std::int64_t count) const { return count; }
  /// Within a forward, around all calls but send(), expect() and receive(). False: the backend had
  /// the calls of this key on record and has issued them; make none, not even end_calls().
  virtual bool begin_calls(const ForwardKey& key) {
    (void)key;
    return true;
  }
  virtual void end_calls() {}
  /// Names the calls that follow, for a profile. `name` outlives the forward.
  virtual void section(const char* name) { (void)name; }

  /// out = epilogue(norm(x) W^T + bias). `bias` [out] or null. Rows are independent.
  virtual void norm_linear(const NormArgs& norm, MatrixView x, const LinearWeight& weight,
                           const float* bias, Epilogue epilogue, MatrixView out) = 0;
  /// out = norm(x), rows independent.
  virtual void normalize(const NormArgs& norm, MatrixView x, MatrixView out) = 0;
  /// out[i] = x[i mod x.rows], both of the residual stream's dtype.
  virtual void repeat_rows(MatrixView x, MatrixView out) {
    for (std::int64_t i = 0; i < out.rows; ++i)
      std::memcpy(out.data + i * out.stride, x.data + i % x.rows * x.stride,
                  static_cast<std::size_t>(out.cols) * sizeof(float));
  }

  /// out [events, width] = K and V of every event's token.
  virtual void project_tokens(const TokenArgs& tokens, const TokenProjection& projection,
                              MatrixView out) = 0;
  virtual void ragged_attention(const RaggedAttentionArgs& args) = 0;
  /// Each column of `scores` [items * rows, columns] is turned into softmax weights over the rows
  /// of its item, which pool x: out[i * columns + c] = sum_r w[r, c] x[i * rows + r]. `scores` is
  /// overwritten. x [items * rows, dim], out [items * columns, dim].
  virtual void softmax_pool(MatrixView scores, MatrixView x, std::int64_t rows, MatrixView out) = 0;
  virtual void latent_head(const LatentHeadArgs& args) {
    normalize(args.first, args.x, args.keys);
    normalize(args.second, args.keys, args.keys);
    norm_linear({}, args.keys, *args.score, nullptr, Epilogue::store, args.scores);
    softmax_pool(args.scores, args.keys, args.latents, args.pooled);
    const std::int64_t answers = args.out.rows * args.out.cols;
    norm_linear({}, matrix(args.pooled.data, answers, args.value->in()), *args.value, nullptr,
                Epilogue::store, matrix(args.out.data, answers, 1));
  }
  /// out[i] = mean over the rows of item i. x [items * rows, cols], out [items, cols].
  virtual void mean_rows(MatrixView x, std::int64_t rows, MatrixView out) = 0;

  /// out[b, r] = latent[r] + sum over the events of step b itself of value * additive[unit][r].
  virtual void additive_bag(const StreamTables& tables, const StreamEvents& events,
                            MatrixView out) = 0;
  /// out[b, r] = attention of query r over the recent events of stream b and the null key.
  virtual void stream_cross_attention(const StreamTables& tables, const StreamEvents& events,
                                      MatrixView out) = 0;
  virtual void phases(const PhaseArgs& args) {
    for (std::int64_t b = 0; b < args.steps; ++b)
      time_phases(static_cast<double>(args.step[b] + 1) * args.step_ms,
                  {args.periods_ms, static_cast<std::size_t>(args.pairs)},
                  args.cosines + b * args.pairs, args.sines + b * args.pairs);
  }
  /// What a stream's forward begins with, and nothing of which needs another: phases(),
  /// additive_bag() to `sums` and stream_cross_attention() to `attention`.
  virtual void stream_inputs(const PhaseArgs& phase_args, const StreamTables& tables,
                             const StreamEvents& events, MatrixView sums, MatrixView attention) {
    section("tokens");
    phases(phase_args);
    additive_bag(tables, events, sums);
    section("cross-attention");
    stream_cross_attention(tables, events, attention);
  }
  /// out[b] = W concat_r(norm(x[b R + r])) + bias, W [outputs, R * x.cols]. `rows`, as large as x,
  /// is scratch of the dtype that W's inputs are rounded to.
  virtual void norm_concat_linear(const NormArgs& norm, MatrixView x, MatrixView rows,
                                  const LinearWeight& weight, const float* bias, MatrixView out) {
    normalize(norm, x, rows);
    norm_linear({}, matrix(rows.data, out.rows, weight.in(), rows.dtype), weight, bias,
                Epilogue::store, out);
  }
  /// Puts k, rotated, and v into the cache at the present step's slot; then each latent's rotated q
  /// attends to all latents of the live steps. `qkv` may be overwritten.
  virtual void paged_attention(const PagedAttentionArgs& args) = 0;
  /// All between a stream's inputs and its head: z += cross_out(attention.out), then every block.
  virtual void stream_blocks(const StreamBlocksArgs& args) {
    PagedAttentionArgs attention = args.attention;
    const MatrixView &z = args.z, &seen = attention.out;
    norm_linear({}, seen, *args.cross_out, nullptr, Epilogue::add, z);
    attention.layer = 0;
    for (const TransformerBlock& block : args.blocks) {
      section(block.name);
      norm_linear(block.norm_attn, z, *block.qkv, nullptr, Epilogue::store, attention.qkv);
      paged_attention(attention);
      norm_linear({}, seen, *block.out, nullptr, Epilogue::add, z);
      norm_linear(block.norm_mlp, z, *block.up, nullptr, Epilogue::gelu, args.hidden);
      norm_linear({}, args.hidden, *block.down, nullptr, Epilogue::add, z);
      ++attention.layer;
    }
  }
  /// out[i] = onto[i mod onto.rows] + W x[i], `onto` and out of the residual stream's dtype.
  virtual void linear_onto(MatrixView onto, MatrixView x, const LinearWeight& weight,
                           MatrixView out) {
    repeat_rows(onto, out);
    norm_linear({}, x, weight, nullptr, Epilogue::add, out);
  }
  /// ragged_attention() of the q, k and v that `qkv` makes of norm(x), in `room`: columns of `room`
  /// are what `attention` reads, among the rows of an item, without a mask.
  virtual void project_and_attend(const NormArgs& norm, MatrixView x, const LinearWeight& qkv,
                                  MatrixView room, const RaggedAttentionArgs& attention) {
    norm_linear(norm, x, qkv, nullptr, Epilogue::store, room);
    ragged_attention(attention);
  }
  /// All between a window's cross-attention and its head: z = latents + cross_out(attention.out),
  /// then every block.
  virtual void window_blocks(const WindowBlocksArgs& args) {
    const MatrixView& z = args.z;
    linear_onto(args.latents, args.attention.out, *args.cross_out, z);
    for (const TransformerBlock& block : args.blocks) {
      section(block.name);
      project_and_attend(block.norm_attn, z, *block.qkv, args.qkv, args.attention);
      norm_linear({}, args.attention.out, *block.out, nullptr, Epilogue::add, z);
      norm_linear(block.norm_mlp, z, *block.up, nullptr, Epilogue::gelu, args.hidden);
      norm_linear({}, args.hidden, *block.down, nullptr, Epilogue::add, z);
    }
  }
};

/// Calls begin_forward and end_forward.
class ForwardScope {
 public:
  explicit ForwardScope(Ops& ops) : ops_(ops) { ops_.begin_forward(); }
  ~ForwardScope() { ops_.end_forward(); }
  ForwardScope(const ForwardScope&) = delete;
  ForwardScope& operator=(const ForwardScope&) = delete;

 private:
  Ops& ops_;
};

/// Plain C++, float32 whatever a weight's dtype: the oracle that every other backend is compared
/// with.
std::unique_ptr<Ops> make_reference_ops();

}  // namespace cortex
