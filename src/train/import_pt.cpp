#include "train/import_pt.h"

#include <caffe2/serialize/inline_container.h>
#include <fmt/format.h>

#include <cstring>
#include <filesystem>
#include <set>

#include "core/file.h"
#include "train/params.h"
#include "train/pickle.h"

namespace cortex::train {
namespace {

namespace fs = std::filesystem;
using Kind = PickleValue::Kind;

std::optional<torch::Dtype> dtype_of(const std::string& storage) {
  if (storage == "FloatStorage") return torch::kFloat32;
  if (storage == "DoubleStorage") return torch::kFloat64;
  if (storage == "HalfStorage") return torch::kFloat16;
  if (storage == "BFloat16Storage") return torch::kBFloat16;
  return std::nullopt;
}

torch::Tensor read_storage(caffe2::serialize::PyTorchStreamReader& zip, const std::string& type,
                           const std::string& key) {
  const auto dtype = dtype_of(type);
  if (!dtype) return {};
  auto [data, size] = zip.getRecord("data/" + key);
  const auto n = static_cast<std::int64_t>(size / torch::elementSize(*dtype));
  torch::Tensor out = torch::empty({n}, torch::TensorOptions().dtype(*dtype));
  std::memcpy(out.data_ptr(), data.get(), static_cast<std::size_t>(n) * torch::elementSize(*dtype));
  return out.to(torch::kFloat32);
}

bool holds_tensors(const PickleValue& v) {
  if (v.kind != Kind::mapping) return false;
  for (const auto& [name, entry] : v.entries)
    if (entry->kind == Kind::tensor) return true;
  return false;
}

const PickleValue* find_state(const PickleValue& root) {
  if (holds_tensors(root)) return &root;
  for (const char* key : {"model_state_dict", "model", "state_dict"})
    for (const auto& [name, entry] : root.entries)
      if (name == key && holds_tensors(*entry)) return entry.get();
  return nullptr;
}

std::string bare_name(std::string name) {
  for (const std::string prefix : {"_orig_mod.", "module."})
    if (name.rfind(prefix, 0) == 0) name.erase(0, prefix.size());
  return name;
}

Error bad_file(ErrorCode code, const std::string& pt, const std::string& what) {
  return {code, pt + ": " + what, "pt"};
}

Result<ModelConfig> read_config(const std::string& path) {
  const auto bytes = read_file(path);
  if (!bytes) return bytes.error();
  return parse_published_config(
      std::string(reinterpret_cast<const char*>(bytes->data()), bytes->size()), path);
}

Result<ImportReport> convert(const std::string& pt, const ModelConfig& config,
                             const std::string& out) {
  caffe2::serialize::PyTorchStreamReader zip(pt);
  if (!zip.hasRecord("data.pkl"))
    return bad_file(ErrorCode::corrupt_data, pt, "holds no data.pkl: torch.save did not write it");
  auto [pickle, size] = zip.getRecord("data.pkl");
  auto root = read_pickle(std::string(static_cast<const char*>(pickle.get()), size),
                          [&](const std::string& type, const std::string& key) {
                            return read_storage(zip, type, key);
                          });
  if (!root) return bad_file(root.error().code, pt, root.error().message);
  const PickleValue* state = find_state(**root);
  if (!state)
    return bad_file(ErrorCode::corrupt_data, pt,
                    "holds no state dict, neither at the top nor under model_state_dict, model or "
                    "state_dict");
  ImportReport report;
  report.model = out;
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, entry] : state->entries) {
    if (entry->kind == Kind::tensor && entry->tensor.defined()) {
      tensors.emplace(bare_name(name), from_torch(entry->tensor));
    } else {
      report.ignored.push_back(name);
    }
  }
  // Checked as any model is before it takes the name it was asked for.
  const std::string draft = out + ".partial";
  if (const auto ok = save_model(draft, config, tensors); !ok) return ok.error();
  auto model = load_model(draft);
  std::error_code ec;
  if (!model) {
    fs::remove(draft, ec);
    Error e = model.error();
    if (const auto at = e.message.find(draft); at != std::string::npos)
      e.message.replace(at, draft.size(), pt);
    return e;
  }
  fs::rename(draft, out, ec);
  if (ec) return Error{ErrorCode::io_error, out + ": " + ec.message(), "out"};
  report.parameters = model->parameter_count();
  return report;
}

}  // namespace

Result<ImportReport> import_pt(const std::string& pt, const std::string& config,
                               const std::string& out) {
  const auto bytes = read_file(pt);
  if (!bytes) return bytes.error();
  const std::string head(reinterpret_cast<const char*>(bytes->data()),
                         std::min<std::size_t>(4, bytes->size()));
  if (head != "PK\x03\x04")
    return bad_file(ErrorCode::unsupported, pt,
                    "not a zip archive: save it with torch.save of version 1.6 or newer");
  auto parsed =
      read_config(config.empty() ? (fs::path(pt).parent_path() / "config.json").string() : config);
  if (!parsed) return parsed.error();
  try {
    return convert(pt, *parsed, out);
  } catch (const c10::Error& e) {
    return bad_file(ErrorCode::corrupt_data, pt, e.what_without_backtrace());
  } catch (const Exception& e) {
    return e.error;
  }
}

}  // namespace cortex::train
