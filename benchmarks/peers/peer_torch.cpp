// LibTorch as a peer: the window decoder in its own operations, eager.
//
//   peer_torch FOLDER fp32|bf16 THREADS
//
// bf16 is autocast with weights that are bf16 already, so that it need not round them each time.
#include <torch/torch.h>
//
#include <ATen/autocast_mode.h>
#include <cortex/result.h>

#include <cmath>
#include <map>

#include "model/weights.h"
#include "peer.h"

namespace cortex {
namespace {

using torch::Tensor;
constexpr double kRmsEps = 1e-6;
constexpr double kLayerEps = 1e-5;

class Window {
 public:
  Window(const ModelFile& file, const peers::WindowEvents& events, bool bf16)
      : config_(file.config), bf16_(bf16) {
    for (const auto& [name, tensor] : file.tensors) {
      const torch::IntArrayRef shape(tensor.shape());
      Tensor t = torch::from_blob(const_cast<std::byte*>(tensor.data()), shape).clone();
      const bool linear =
          name.find("proj.weight") != std::string::npos || name.find("mlp.") != std::string::npos;
      weights_[name] = bf16 && linear ? t.to(torch::kBFloat16) : t;
    }
    const auto ids = [](const std::vector<std::int32_t>& v) {
      return torch::tensor(v, torch::kInt32).to(torch::kInt64);
    };
    neuron_ = ids(events.neuron);
    bin_ = ids(events.bin);
    value_ = ids(events.value).clamp_max(config_.value_buckets - 1);
    // No input in the queries: projected once, as in our plan.
    const Tensor latents = w("encoder.latents").unsqueeze(0);
    const std::string cross = "encoder.cross_attn.";
    query_ = heads(torch::linear(norm(latents, cross + "norm_q"),
                                 w(cross + "q_proj.weight").to(torch::kFloat32)));
    head_query_ = heads(torch::linear(w("behavior_head.query").unsqueeze(0),
                                      w("behavior_head.q_proj.weight").to(torch::kFloat32)));
  }

  Tensor forward() const {
    const torch::InferenceMode guard;
    if (!bf16_) return plan();
    at::autocast::set_cpu_enabled(true);
    at::autocast::set_autocast_cpu_dtype(torch::kBFloat16);
    Tensor y = plan();
    at::autocast::clear_cache();
    at::autocast::set_cpu_enabled(false);
    return y;
  }

 private:
  const Tensor& w(const std::string& name) const { return weights_.at(name); }

  Tensor norm(const Tensor& x, const std::string& name) const {
    if (config_.norm == NormKind::layernorm)
      return torch::layer_norm(x, {config_.dim}, w(name + ".weight"), w(name + ".bias"), kLayerEps);
    return x * torch::rsqrt(x.square().mean(-1, true) + kRmsEps) * w(name + ".weight");
  }
  Tensor heads(const Tensor& x) const {
    return x.view({1, x.size(1), config_.heads, config_.head_dim}).transpose(1, 2);
  }
  Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v) const {
    const double scale = 1.0 / std::sqrt(static_cast<double>(config_.head_dim));
    const Tensor weights = torch::softmax(torch::matmul(q * scale, k.transpose(-2, -1)), -1);
    return torch::matmul(weights, v).transpose(1, 2).reshape({1, q.size(2), config_.dim});
  }

  Tensor plan() const {
    const std::string cross = "encoder.cross_attn.";
    const Tensor tokens = torch::embedding(w("tokenizer.neuron_emb.weight"), neuron_) +
                          torch::embedding(w("tokenizer.time_emb.weight"), bin_) +
                          torch::embedding(w("tokenizer.value_emb.weight"), value_);
    auto kv =
        torch::linear(norm(tokens.unsqueeze(0), cross + "norm_kv"), w(cross + "kv_proj.weight"))
            .chunk(2, -1);
    Tensor z =
        w("encoder.latents").unsqueeze(0) +
        torch::linear(attention(query_, heads(kv[0]), heads(kv[1])), w(cross + "out_proj.weight"));
    for (int i = 0; i < config_.layers; ++i) {
      const std::string block = "encoder.self_attn_blocks." + std::to_string(i) + ".";
      const auto qkv =
          torch::linear(norm(z, block + "norm_attn"), w(block + "qkv_proj.weight")).chunk(3, -1);
      z = z + torch::linear(attention(heads(qkv[0]), heads(qkv[1]), heads(qkv[2])),
                            w(block + "out_proj.weight"));
      const Tensor up = torch::linear(norm(z, block + "norm_mlp"), w(block + "mlp.0.weight"));
      z = z + torch::linear(torch::gelu(up), w(block + "mlp.2.weight"));
    }
    const Tensor last = norm(norm(z, "encoder.final_norm"), "behavior_head.norm");
    kv = torch::linear(last, w("behavior_head.kv_proj.weight")).chunk(2, -1);
    Tensor y = torch::linear(attention(head_query_, heads(kv[0]), heads(kv[1])),
                             w("behavior_head.out_proj.weight"))
                   .flatten()
                   .to(torch::kFloat32);
    if (weights_.count("output.std")) y = y * w("output.std") + w("output.mean");
    return y;
  }

  ModelConfig config_;
  bool bf16_;
  std::map<std::string, Tensor> weights_;
  Tensor neuron_, bin_, value_, query_, head_query_;
};

}  // namespace
}  // namespace cortex

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: peer_torch FOLDER fp32|bf16 THREADS\n";
    return 2;
  }
  try {
    const std::string folder = argv[1];
    at::set_num_threads(std::stoi(argv[3]));
    const auto file = cortex::load_model(folder + "/model.safetensors").value_or_throw();
    const cortex::Window window(file, cortex::peers::read_events(folder + "/events.bin"),
                                argv[2] == std::string("bf16"));
    return cortex::peers::serve({"LibTorch " TORCH_VERSION, [&] { window.forward(); },
                                 [&] {
                                   const torch::Tensor y = window.forward().contiguous();
                                   const float* at = y.data_ptr<float>();
                                   return std::vector<float>(at, at + y.numel());
                                 }});
  } catch (const cortex::Exception& failure) {
    std::cerr << "peer_torch: " << failure.error.message << '\n';
  } catch (const std::exception& failure) {
    std::cerr << "peer_torch: " << failure.what() << '\n';
  }
  return 1;
}
