#include "train/pickle.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace cortex::train {
namespace {

using Value = std::shared_ptr<PickleValue>;
using Kind = PickleValue::Kind;

Value make(Kind kind) {
  auto v = std::make_shared<PickleValue>();
  v->kind = kind;
  return v;
}

Value make_integer(std::int64_t n, Kind kind = Kind::integer) {
  auto v = make(kind);
  v->integer = n;
  return v;
}

Value make_text(std::string text, Kind kind = Kind::text) {
  auto v = make(kind);
  v->text = std::move(text);
  return v;
}

[[noreturn]] void fail(const std::string& what) {
  throw Exception{{ErrorCode::corrupt_data, "pickle: " + what, "pt"}};
}

class Reader {
 public:
  Reader(const std::string& bytes,
         const std::function<torch::Tensor(const std::string&, const std::string&)>& storage)
      : bytes_(bytes), storage_(storage) {}

  Value read() {
    while (true) {
      const auto op = static_cast<unsigned char>(take(1)[0]);
      if (op == '.') return pop();
      step(op);
    }
  }

 private:
  std::string take(std::size_t n) {
    if (n > bytes_.size() - at_) fail("ends too early");
    at_ += n;
    return bytes_.substr(at_ - n, n);
  }
  template <class T>
  T number() {
    T v;
    std::memcpy(&v, take(sizeof v).data(), sizeof v);
    return v;
  }
  std::string line() {
    const auto end = bytes_.find('\n', at_);
    if (end == std::string::npos) fail("ends too early");
    std::string out = bytes_.substr(at_, end - at_);
    at_ = end + 1;
    return out;
  }
  void push(Value v) { stack_.push_back(std::move(v)); }
  Value pop() {
    if (stack_.empty()) fail("takes from an empty stack");
    Value v = stack_.back();
    stack_.pop_back();
    return v;
  }
  Value top() {
    if (stack_.empty()) fail("looks at an empty stack");
    return stack_.back();
  }
  std::vector<Value> pop_to_mark() {
    std::vector<Value> out;
    for (Value v = pop(); v->kind != Kind::mark; v = pop()) out.insert(out.begin(), v);
    return out;
  }
  Value memo(std::uint32_t key) {
    const auto found = memo_.find(key);
    if (found == memo_.end()) fail("refers to nothing");
    return found->second;
  }
  void push_tuple(std::size_t n) {
    auto v = make(Kind::sequence);
    for (std::size_t i = 0; i < n; ++i) v->items.insert(v->items.begin(), pop());
    push(v);
  }
  void set_items(const std::vector<Value>& flat) {
    const Value into = top();
    for (std::size_t i = 0; i + 1 < flat.size(); i += 2)
      if (into->kind == Kind::mapping && flat[i]->kind == Kind::text)
        into->entries.emplace_back(flat[i]->text, flat[i + 1]);
  }
  void append(const std::vector<Value>& more) {
    const Value into = top();
    into->items.insert(into->items.end(), more.begin(), more.end());
  }
  void step(unsigned char op);
  void step_number(unsigned char op);
  Value persistent(const Value& id);
  Value call(const Value& function, const Value& arguments);

  const std::string& bytes_;
  const std::function<torch::Tensor(const std::string&, const std::string&)>& storage_;
  std::size_t at_ = 0;
  std::vector<Value> stack_;
  std::map<std::uint32_t, Value> memo_;
};

void Reader::step(unsigned char op) {
  switch (op) {
    case 0x80:
      take(1);
      return;  // PROTO
    case '(':
      return push(make(Kind::mark));
    case ')':
      return push(make(Kind::sequence));
    case ']':
      return push(make(Kind::sequence));
    case '}':
      return push(make(Kind::mapping));
    case 'N':
      return push(make(Kind::none));
    case 0x88:
      return push(make_integer(1, Kind::boolean));
    case 0x89:
      return push(make_integer(0, Kind::boolean));
    case 'X': {
      const auto n = number<std::uint32_t>();
      return push(make_text(take(n)));
    }
    case 'c': {
      const std::string module = line();
      return push(make_text(module + " " + line(), Kind::global));
    }
    case 'q':
      memo_[number<std::uint8_t>()] = top();
      return;
    case 'r':
      memo_[number<std::uint32_t>()] = top();
      return;
    case 'h':
      return push(memo(number<std::uint8_t>()));
    case 'j':
      return push(memo(number<std::uint32_t>()));
    case 't': {
      auto v = make(Kind::sequence);
      v->items = pop_to_mark();
      return push(v);
    }
    case 0x85:
      return push_tuple(1);
    case 0x86:
      return push_tuple(2);
    case 0x87:
      return push_tuple(3);
    case 's': {
      const Value value = pop();
      const Value key = pop();
      return set_items({key, value});
    }
    case 'u':
      return set_items(pop_to_mark());
    case 'a':
      return append({pop()});
    case 'e':
      return append(pop_to_mark());
    case 'b':
      pop();
      return;  // BUILD: attributes such as _metadata hold no weights
    case 'Q':
      return push(persistent(pop()));
    case 'R':
    case 0x81: {
      const Value arguments = pop();
      return push(call(pop(), arguments));
    }
    default:
      return step_number(op);
  }
}

void Reader::step_number(unsigned char op) {
  switch (op) {
    case 'J':
      return push(make_integer(number<std::int32_t>()));
    case 'K':
      return push(make_integer(number<std::uint8_t>()));
    case 'M':
      return push(make_integer(number<std::uint16_t>()));
    case 0x8a: {  // LONG1, little-endian two's complement
      const std::string digits = take(number<std::uint8_t>());
      if (digits.size() > 8) return push(make(Kind::opaque));
      std::int64_t n = !digits.empty() && (digits.back() & 0x80) ? -1 : 0;
      std::memcpy(&n, digits.data(), digits.size());
      return push(make_integer(n));
    }
    case 'G': {  // BINFLOAT, big-endian
      std::string raw = take(8);
      std::reverse(raw.begin(), raw.end());
      auto v = make(Kind::real);
      std::memcpy(&v->real, raw.data(), 8);
      return push(v);
    }
    default:
      throw Exception{
          {ErrorCode::unsupported,
           fmt::format("pickle: opcode 0x{:02x} at byte {} is not what torch.save writes", op,
                       at_ - 1),
           "pt"}};
  }
}

Value Reader::persistent(const Value& id) {
  // ("storage", <torch.FloatStorage>, key, location, elements)
  if (id->items.size() < 5 || id->items[0]->text != "storage" ||
      id->items[1]->kind != Kind::global || id->items[2]->kind != Kind::text)
    fail("a persistent id is not a storage");
  auto v = make_text(id->items[2]->text, Kind::storage);
  const std::string& type = id->items[1]->text;
  v->tensor = storage_(type.substr(type.rfind(' ') + 1), v->text);
  return v;
}

Value Reader::call(const Value& function, const Value& arguments) {
  if (function->kind != Kind::global) return make(Kind::opaque);
  const auto& a = arguments->items;
  if (function->text == "collections OrderedDict") return make(Kind::mapping);
  if (function->text == "torch._utils _rebuild_parameter" && !a.empty()) return a[0];
  if (function->text != "torch._utils _rebuild_tensor_v2") return make(Kind::opaque);
  // (storage, offset, size, stride, requires_grad, hooks)
  if (a.size() < 4 || a[0]->kind != Kind::storage) fail("a tensor has no storage");
  std::vector<std::int64_t> size, stride;
  std::int64_t last = a[1]->integer;
  for (const Value& n : a[2]->items) size.push_back(n->integer);
  for (const Value& n : a[3]->items) stride.push_back(n->integer);
  bool sane = size.size() == stride.size() && a[1]->integer >= 0;
  for (std::size_t i = 0; sane && i < size.size(); ++i) {
    sane = size[i] >= 0 && stride[i] >= 0 && size[i] < (1LL << 31) && stride[i] < (1LL << 31);
    if (size[i] > 0) last += (size[i] - 1) * stride[i];
  }
  auto v = make(Kind::tensor);
  // Other types than floats (counters, say) are carried as undefined tensors.
  if (!a[0]->tensor.defined()) return v;
  if (!sane || last >= a[0]->tensor.numel()) fail("a tensor lies outside its storage");
  v->tensor = a[0]->tensor.as_strided(size, stride, a[1]->integer).clone().contiguous();
  return v;
}

}  // namespace

Result<std::shared_ptr<PickleValue>> read_pickle(
    const std::string& bytes,
    const std::function<torch::Tensor(const std::string& type, const std::string& key)>& storage) {
  try {
    return Reader(bytes, storage).read();
  } catch (const Exception& e) {
    return e.error;
  }
}

}  // namespace cortex::train
