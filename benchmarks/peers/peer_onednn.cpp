// oneDNN as a peer: the linears of a window's latents alone, no norm, no attention, int8 without
// quantising what goes in or scaling what comes out, all to its advantage.
//
//   peer_onednn FOLDER PRECISION        threads: OMP_NUM_THREADS
#include <cortex/result.h>

#include <dnnl.hpp>
#include <unordered_map>

#include "bench_model.h"
#include "bench_work.h"
#include "peer.h"

namespace cortex {
namespace {

using dnnl::matmul;
using dnnl::memory;

struct Types {
  memory::data_type source, weights, destination;
};
Types types_of(DType precision) {
  using Type = memory::data_type;
  switch (precision) {
    case DType::f32:
      break;
    case DType::bf16:
      return {Type::bf16, Type::bf16, Type::bf16};
    case DType::i8:
      return {Type::u8, Type::s8, Type::s32};
  }
  return {Type::f32, Type::f32, Type::f32};
}

class Linears {
 public:
  Linears(const ModelConfig& config, DType precision)
      : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    const Types types = types_of(precision);
    for (const LinearShape& shape : forward_linears(config, 1)) {
      const memory::desc source({shape.rows, shape.in}, types.source, memory::format_tag::ab);
      const memory::desc weights({shape.in, shape.out}, types.weights, memory::format_tag::any);
      const memory::desc result({shape.rows, shape.out}, types.destination, memory::format_tag::ab);
#if DNNL_VERSION_MAJOR >= 3
      const matmul::primitive_desc plan(engine_, source, weights, result);
#else
      const matmul::primitive_desc plan(matmul::desc(source, weights, result), engine_);
#endif
      // Shapes that it has no kernel for fall back to loops that are a thousand times slower.
      if (std::string(plan.impl_info_str()).find("ref") != std::string::npos)
        throw std::runtime_error(shape.name + ": oneDNN runs " + plan.impl_info_str());
      steps_.push_back({matmul(plan),
                        {{DNNL_ARG_SRC, filled(plan.src_desc())},
                         {DNNL_ARG_WEIGHTS, filled(plan.weights_desc())},
                         {DNNL_ARG_DST, filled(plan.dst_desc())}}});
    }
  }

  void run() {
    for (const auto& [primitive, arguments] : steps_) primitive.execute(stream_, arguments);
    stream_.wait();
  }

 private:
  /// Small numbers of the type; what they are costs no time.
  memory filled(const memory::desc& desc) {
    memory m(desc, engine_);
    auto* bytes = static_cast<std::uint8_t*>(m.get_data_handle());
    // As bf16 or float32 pairs and quads of 0x3c are about 0.01.
    std::fill(bytes, bytes + desc.get_size(), std::uint8_t{0x3c});
    return m;
  }

  dnnl::engine engine_;
  dnnl::stream stream_;
  std::vector<std::pair<matmul, std::unordered_map<int, memory>>> steps_;
};

}  // namespace
}  // namespace cortex

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: peer_onednn FOLDER PRECISION\n";
    return 2;
  }
  try {
    const auto file =
        cortex::load_model(std::string(argv[1]) + "/model.safetensors").value_or_throw();
    cortex::Linears linears(file.config, cortex::precision_of(argv[2]));
    const dnnl_version_t* version = dnnl_version();
    const std::string name = "oneDNN " + std::to_string(version->major) + "." +
                             std::to_string(version->minor) + "." + std::to_string(version->patch);
    return cortex::peers::serve(
        {name, [&] { linears.run(); }, [] { return std::vector<float>{}; }});
  } catch (const cortex::Exception& failure) {
    std::cerr << "peer_onednn: " << failure.error.message << '\n';
  } catch (const std::exception& failure) {
    std::cerr << "peer_onednn: " << failure.what() << '\n';
  }
  return 1;
}
