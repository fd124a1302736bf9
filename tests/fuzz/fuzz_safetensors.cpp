#include <cstddef>
#include <cstdint>

#include "model/weights.h"
#include "tensor/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  (void)cortex::parse_safetensors(bytes, "fuzz");
  (void)cortex::parse_model(bytes, "fuzz");
  return 0;
}
