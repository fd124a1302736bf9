#pragma once

#include <cortex/result.h>
#include <torch/torch.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace cortex::train {

/// A value of a pickle. Anything that is not plain data or a tensor is `opaque`: nothing is ever
/// imported or called.
struct PickleValue {
  enum class Kind {
    opaque,
    none,
    boolean,
    integer,
    real,
    text,
    sequence,
    mapping,
    global,
    tensor,
    storage,
    mark
  };
  Kind kind = Kind::opaque;
  std::int64_t integer = 0;
  double real = 0;
  std::string text;  ///< also "module name" of a global and the key of a storage
  std::vector<std::shared_ptr<PickleValue>> items;
  std::vector<std::pair<std::string, std::shared_ptr<PickleValue>>> entries;  ///< text keys only
  torch::Tensor tensor;
};

/// Reads the protocol 2 pickle that torch.save writes. `storage` gives the bytes of a storage as a
/// flat tensor from its type name (e.g. "FloatStorage") and key. corrupt_data or unsupported.
Result<std::shared_ptr<PickleValue>> read_pickle(
    const std::string& bytes,
    const std::function<torch::Tensor(const std::string& type, const std::string& key)>& storage);

}  // namespace cortex::train
