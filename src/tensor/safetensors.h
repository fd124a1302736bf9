#pragma once

#include <cortex/result.h>

#include <map>
#include <span>
#include <string>

#include "tensor/tensor.h"

namespace cortex {

/// What a safetensors file holds. https://huggingface.co/docs/safetensors
struct SafetensorsFile {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;  ///< `__metadata__`
};

/// Reads a whole file. Errors: not_found, corrupt_data (truncated, a header that is not JSON,
/// offsets out of range or overlapping, a shape that does not match its bytes), unsupported (a
/// dtype other than F32, BF16, I8): the message names the tensor.
Result<SafetensorsFile> read_safetensors(const std::string& path);
/// The same from bytes in memory; `name` stands for the path in messages.
Result<SafetensorsFile> parse_safetensors(std::span<const std::byte> bytes,
                                          const std::string& name);

/// Writes atomically. Tensors are laid out in name order, so equal contents give equal bytes.
Result<void> write_safetensors(const std::string& path, const SafetensorsFile& file);

}  // namespace cortex
