#include "serve/codec_oip.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <limits>
#include <utility>

#include "core/json_writer.h"
#include "serve/json_fields.h"

namespace cortex {
namespace {

using json::as;
using json::bad;
using json::deadline;
using json::describe;
using json::element;
using json::element_type;
using json::fields_of;
using json::flag;
using json::id;
using json::index_of;
using json::kEventFields;
using json::kEventHighest;
using json::missing;
using json::number;
using json::object_of;
using json::whole;

constexpr std::string_view kOutput = "behavior";
/// How deep "data" may be nested: a tensor's rank, and no event needs more than a batch of one.
constexpr int kMostNested = 4;
constexpr std::int64_t kMostElements = 1 << 26;

enum class Datatype { i8, i16, i32, i64, u8, u16, u32, u64 };

struct DatatypeName {
  std::string_view name;
  Datatype type;
  std::size_t bytes;
};
constexpr DatatypeName kDatatypes[] = {
    {"INT32", Datatype::i32, 4},  {"INT64", Datatype::i64, 8},  {"INT16", Datatype::i16, 2},
    {"INT8", Datatype::i8, 1},    {"UINT8", Datatype::u8, 1},   {"UINT16", Datatype::u16, 2},
    {"UINT32", Datatype::u32, 4}, {"UINT64", Datatype::u64, 8},
};

template <class T>
std::int64_t load(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  if constexpr (sizeof(T) == 8)
    return static_cast<std::int64_t>(
        std::min<T>(value, static_cast<T>(std::numeric_limits<std::int64_t>::max())));
  return static_cast<std::int64_t>(value);
}

std::int64_t load(Datatype type, const char* bytes) {
  switch (type) {
    case Datatype::i8:
      return load<std::int8_t>(bytes);
    case Datatype::i16:
      return load<std::int16_t>(bytes);
    case Datatype::i32:
      return load<std::int32_t>(bytes);
    case Datatype::i64:
      return load<std::int64_t>(bytes);
    case Datatype::u8:
      return load<std::uint8_t>(bytes);
    case Datatype::u16:
      return load<std::uint16_t>(bytes);
    case Datatype::u32:
      return load<std::uint32_t>(bytes);
    case Datatype::u64:
      return load<std::uint64_t>(bytes);
  }
  return 0;
}

/// Elements of a shape: of any rank, as long as all but one dimension are 1.
Result<std::int64_t> elements_of(element shape, const std::string& field) {
  simdjson::dom::array dims;
  if (shape.get_array().get(dims))
    return bad(field, fmt::format("{} must be an array, not {}", field, describe(shape)));
  std::int64_t n = 1;
  for (const element dim : dims) {
    const auto d = whole(dim, field, 0, kMostElements);
    if (!d) return d.error();
    if (n != 1 && *d != 1)
      return bad(field, fmt::format("{}: one element an event, in one dimension", field));
    n *= *d;
  }
  return n;
}

Result<void> flatten(element data, const std::string& field, std::int64_t high, int depth,
                     std::vector<std::int64_t>& out) {
  simdjson::dom::array array;
  if (data.get_array().get(array))
    return bad(field, fmt::format("{} must be an array, not {}", field, describe(data)));
  for (const element one : array) {
    if (one.type() == element_type::ARRAY) {
      if (depth >= kMostNested) return bad(field, field + " is nested too deeply");
      if (auto ok = flatten(one, field, high, depth + 1, out); !ok) return ok;
      continue;
    }
    const auto n = whole(one, field, 0, high);
    if (!n) return n.error();
    out.push_back(*n);
  }
  return {};
}

struct Tail {
  std::string_view bytes;  // binary tensors that have not been taken
  bool is_there = false;
};

/// One of "inputs" into its column; `tail` gives the bytes of a binary one.
Result<void> read_input(element input, std::size_t index, Tail& tail,
                        std::vector<std::int64_t> (&columns)[3], bool (&seen)[3]) {
  constexpr std::string_view kNames[] = {"name", "shape", "datatype", "data", "parameters"};
  const std::string path = fmt::format("inputs[{}]", index);
  if (input.type() != element_type::OBJECT)
    return bad(path, fmt::format("{} must be an object, not {}", path, describe(input)));
  const auto fields = fields_of(input, kNames, path + ".");
  if (!fields) return fields.error();
  for (int i = 0; i < 3; ++i)
    if (!fields->has[i]) return missing(path + "." + std::string(kNames[i]));
  const auto name = id(fields->at[0], path + ".name");
  if (!name) return name.error();
  const int column = index_of(kEventFields, *name);
  if (column < 0)
    return bad(
        path + ".name",
        fmt::format("{}.name = \"{}\": the inputs are neuron_id, time_bin and value", path, *name));
  if (seen[column]) return bad(path + ".name", *name + " is given twice");
  seen[column] = true;
  const auto count = elements_of(fields->at[1], path + ".shape");
  if (!count) return count.error();
  const auto type_name = id(fields->at[2], path + ".datatype");
  if (!type_name) return type_name.error();
  const auto type = std::find_if(std::begin(kDatatypes), std::end(kDatatypes),
                                 [&](const auto& t) { return t.name == *type_name; });
  if (type == std::end(kDatatypes))
    return bad(path + ".datatype",
               fmt::format("{}.datatype = \"{}\": whole numbers are needed, e.g. INT32", path,
                           *type_name));
  std::optional<std::int64_t> size;
  if (fields->has[4] && fields->at[4].type() == element_type::OBJECT) {
    constexpr std::string_view kParameters[] = {"binary_data_size"};
    const auto parameters = fields_of(fields->at[4], kParameters, path + ".parameters.");
    if (!parameters) return parameters.error();
    if (parameters->has[0]) {
      const auto n = whole(parameters->at[0], path + ".parameters.binary_data_size", 0, kMaxWhole);
      if (!n) return n.error();
      size = *n;
    }
  }
  std::vector<std::int64_t>& out = columns[column];
  const std::int64_t high = kEventHighest[column];
  if (!size) {
    if (!fields->has[3]) return missing(path + ".data");
    if (auto ok = flatten(fields->at[3], path + ".data", high, 0, out); !ok) return ok;
    if (static_cast<std::int64_t>(out.size()) != *count)
      return bad(path + ".data",
                 fmt::format("{}.data has {} elements and its shape {}", path, out.size(), *count));
    return {};
  }
  if (fields->has[3]) return bad(path + ".data", path + " has both data and binary_data_size");
  if (!tail.is_there)
    return bad("Inference-Header-Content-Length",
               path + " is binary, but the header Inference-Header-Content-Length is missing");
  if (*size != *count * static_cast<std::int64_t>(type->bytes))
    return bad(
        path + ".parameters.binary_data_size",
        fmt::format("{}: binary_data_size = {}, but {} elements of {} have {} bytes", path, *size,
                    *count, type->name, *count * static_cast<std::int64_t>(type->bytes)));
  if (static_cast<std::uint64_t>(*size) > tail.bytes.size())
    return bad(path + ".parameters.binary_data_size",
               fmt::format("{}: binary_data_size = {}, but only {} bytes are left in the body",
                           path, *size, tail.bytes.size()));
  out.reserve(static_cast<std::size_t>(*count));
  for (std::int64_t i = 0; i < *count; ++i) {
    const std::int64_t n = load(type->type, tail.bytes.data() + i * type->bytes);
    if (n < 0 || n > high)
      return bad(fmt::format("{}[{}]", *name, i),
                 fmt::format("{}[{}] = {} is out of range: 0 to {}", *name, i, n, high));
    out.push_back(n);
  }
  tail.bytes.remove_prefix(static_cast<std::size_t>(*size));
  return {};
}

Result<std::string> sequence_id_of(element e) {
  if (e.type() == element_type::STRING) return id(e, "parameters.sequence_id");
  if (e.type() == element_type::UINT64) return fmt::format("{}", as<std::uint64_t>(e));
  const auto n = whole(e, "parameters.sequence_id", 0, std::numeric_limits<std::int64_t>::max());
  if (!n) return n.error();
  // 0 is how clients say that there is no sequence.
  return *n == 0 ? std::string() : fmt::format("{}", *n);
}

Result<void> read_parameters(element e, InferRequest& request) {
  constexpr std::string_view kNames[] = {
      "sequence_id", "sequence_start", "sequence_end",      "sequence_number", "gap",
      "first_step",  "rate_hz",        "drop_out_of_step",  "deadline_ms",     "timeout",
      "best_effort", "reserve",        "binary_data_output"};
  if (e.type() != element_type::OBJECT)
    return bad("parameters", "parameters must be an object, not " + describe(e));
  const auto fields = fields_of(e, kNames, "parameters.");
  if (!fields) return fields.error();
  const auto name = [&](int i) { return "parameters." + std::string(kNames[i]); };
  const auto read_flag = [&](int i, bool fallback) -> Result<bool> {
    if (!fields->has[i]) return fallback;
    return flag(fields->at[i], name(i));
  };
  const auto read_whole = [&](int i) -> Result<std::optional<std::int64_t>> {
    if (!fields->has[i]) return std::optional<std::int64_t>();
    const auto n = whole(fields->at[i], name(i), 0, kMaxWhole);
    if (!n) return n.error();
    return std::optional<std::int64_t>(*n);
  };
  if (fields->has[0]) {
    auto sequence = sequence_id_of(fields->at[0]);
    if (!sequence) return sequence.error();
    request.sequence_id = *std::move(sequence);
  }
  bool flags[4] = {};
  constexpr int kFlags[] = {1, 2, 7, 12};
  for (int i = 0; i < 4; ++i) {
    const auto on = read_flag(kFlags[i], false);
    if (!on) return on.error();
    flags[i] = *on;
  }
  request.sequence_start = flags[0];
  request.sequence_end = flags[1];
  request.session.drop_out_of_step = flags[2];
  request.binary_output = flags[3];
  const auto number_of_step = read_whole(3);
  if (!number_of_step) return number_of_step.error();
  request.sequence_number = *number_of_step;
  const auto gap = read_whole(4);
  if (!gap) return gap.error();
  request.gap = gap->value_or(0);
  const auto first = read_whole(5);
  if (!first) return first.error();
  request.session.first_step = first->value_or(0);
  if (fields->has[6]) {
    const auto hz = number(fields->at[6], name(6), "steps a second", kMaxRateHz);
    if (!hz) return hz.error();
    request.session.step_rate_hz = *hz;
  }
  if (fields->has[8]) {
    const auto ms = deadline(fields->at[8], name(8));
    if (!ms) return ms.error();
    request.deadline_ms = *ms;
  } else if (fields->has[9]) {
    const auto us = number(fields->at[9], name(9), "microseconds", kMaxDeadlineMs * 1e3);
    if (!us) return us.error();
    request.deadline_ms = *us * 1e-3;
  }
  if (fields->has[10]) {
    const auto on = flag(fields->at[10], name(10));
    if (!on) return on.error();
    request.best_effort = *on;
  }
  const auto reserve = read_flag(11, true);
  if (!reserve) return reserve.error();
  request.session.best_effort = !*reserve;
  return {};
}

Result<void> read_outputs(element e, InferRequest& request) {
  simdjson::dom::array outputs;
  if (e.get_array().get(outputs))
    return bad("outputs", "outputs must be an array, not " + describe(e));
  std::size_t i = 0;
  for (const element output : outputs) {
    constexpr std::string_view kNames[] = {"name", "parameters"};
    const std::string path = fmt::format("outputs[{}]", i++);
    if (output.type() != element_type::OBJECT)
      return bad(path, fmt::format("{} must be an object, not {}", path, describe(output)));
    const auto fields = fields_of(output, kNames, path + ".");
    if (!fields) return fields.error();
    if (!fields->has[0]) return missing(path + ".name");
    const auto name = id(fields->at[0], path + ".name");
    if (!name) return name.error();
    if (*name != kOutput)
      return bad(path + ".name",
                 fmt::format("{}.name = \"{}\": the output is behavior", path, *name));
    if (!fields->has[1]) continue;
    constexpr std::string_view kParameters[] = {"binary_data", "classification"};
    if (fields->at[1].type() != element_type::OBJECT)
      return bad(path + ".parameters", path + ".parameters must be an object");
    const auto parameters = fields_of(fields->at[1], kParameters, path + ".parameters.");
    if (!parameters) return parameters.error();
    if (parameters->has[1])
      return Error{ErrorCode::unsupported, "behavior is not a classification",
                   path + ".parameters.classification"};
    if (parameters->has[0]) {
      const auto on = flag(parameters->at[0], path + ".parameters.binary_data");
      if (!on) return on.error();
      request.binary_output = *on;
    }
  }
  return {};
}

Result<std::size_t> json_part(std::string_view body, std::string_view header) {
  if (header.empty()) return body.size();
  std::size_t n = 0;
  const auto end = header.data() + header.size();
  const auto [at, error] = std::from_chars(header.data(), end, n);
  if (error != std::errc() || at != end || n > body.size())
    return bad("Inference-Header-Content-Length",
               fmt::format("Inference-Header-Content-Length = {}: must be a whole number of at "
                           "most the body's {} bytes",
                           header.substr(0, 32), body.size()));
  return n;
}

}  // namespace

struct OipParser::Dom {
  simdjson::dom::parser parser;
};

OipParser::OipParser() : dom_(std::make_unique<Dom>()) {}
OipParser::~OipParser() = default;

Result<InferRequest> OipParser::infer(std::string_view body, std::string_view json_length) {
  constexpr std::string_view kNames[] = {"id", "inputs", "outputs", "parameters"};
  events_.clear();
  for (auto& column : columns_) column.clear();
  const auto length = json_part(body, json_length);
  if (!length) return length.error();
  const auto root = object_of(dom_->parser, body.substr(0, *length));
  if (!root) return root.error();
  const auto fields = fields_of(*root, kNames, "");
  if (!fields) return fields.error();
  InferRequest request;
  if (fields->has[0]) {
    auto text = id(fields->at[0], "id");
    if (!text) return text.error();
    request.id = *std::move(text);
  }
  if (fields->has[3])
    if (auto ok = read_parameters(fields->at[3], request); !ok) return ok.error();
  if (fields->has[2])
    if (auto ok = read_outputs(fields->at[2], request); !ok) return ok.error();
  if (!fields->has[1]) return missing("inputs");
  simdjson::dom::array inputs;
  if (fields->at[1].get_array().get(inputs))
    return bad("inputs", "inputs must be an array, not " + describe(fields->at[1]));
  Tail tail{body.substr(*length), !json_length.empty()};
  bool seen[3] = {};
  std::size_t index = 0;
  for (const element input : inputs)
    if (auto ok = read_input(input, index++, tail, columns_, seen); !ok) return ok.error();
  for (int i = 0; i < 3; ++i)
    if (!seen[i])
      return bad("inputs", fmt::format("inputs: the tensor {} is missing", kEventFields[i]));
  if (!tail.bytes.empty())
    return bad("", fmt::format("{} bytes follow the last binary tensor", tail.bytes.size()));
  for (int i = 1; i < 3; ++i)
    if (columns_[i].size() != columns_[0].size())
      return bad("inputs", fmt::format("inputs: neuron_id has {} elements, {} has {}",
                                       columns_[0].size(), kEventFields[i], columns_[i].size()));
  events_.reserve(columns_[0].size());
  for (std::size_t i = 0; i < columns_[0].size(); ++i)
    events_.push_back({.unit = static_cast<std::int32_t>(columns_[0][i]),
                       .value = static_cast<std::int32_t>(columns_[2][i]),
                       .bin = columns_[1][i]});
  request.events = events_;
  return request;
}

InferBody infer_body(const InferAnswer& answer, bool binary) {
  const auto n = static_cast<std::int64_t>(answer.behavior.size());
  JsonWriter w;
  w.begin_object().key("model_name").value(answer.model);
  w.key("model_version").value(fmt::format("{}", answer.version));
  if (!answer.id.empty()) w.key("id").value(answer.id);
  w.key("parameters").begin_object();
  if (!answer.sequence_id.empty()) w.key("sequence_id").value(answer.sequence_id);
  if (answer.sequence_number) w.key("sequence_number").value(*answer.sequence_number);
  if (!answer.status.empty()) w.key("status").value(answer.status);
  w.key("latency_ms").value(answer.latency_ms);
  w.key("queue_wait_ms").value(answer.queue_wait_ms);
  w.key("inference_ms").value(answer.inference_ms);
  w.end_object();
  w.key("outputs").begin_array().begin_object();
  w.key("name").value(kOutput).key("datatype").value("FP32");
  w.key("shape").begin_array().value(n).end_array();
  if (binary) {
    w.key("parameters").begin_object().key("binary_data_size");
    w.value(n * static_cast<std::int64_t>(sizeof(float))).end_object();
  } else {
    w.key("data").begin_array();
    for (const float v : answer.behavior) w.value(v);
    w.end_array();
  }
  w.end_object().end_array().end_object();
  InferBody body{w.text(), {}};
  if (binary) {
    body.json_length = body.bytes.size();
    body.bytes.append(reinterpret_cast<const char*>(answer.behavior.data()),
                      answer.behavior.size() * sizeof(float));
  }
  return body;
}

std::string oip_error(std::string_view message) {
  JsonWriter w;
  w.begin_object().key("error").value(message).end_object();
  return w.text();
}

}  // namespace cortex
