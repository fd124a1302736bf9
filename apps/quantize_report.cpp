#include "quantize_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "core/json_writer.h"

namespace cortex {
namespace {

const char* reason(Kept kept) {
  switch (kept) {
    case Kept::no:
      return "";
    case Kept::load:
      return "only multiplied at load";
    case Kept::outside:
      return "not on the way to the behaviour";
    case Kept::hurts:
      return "would hurt in int8";
  }
  return "";
}

std::string percent(const std::optional<double>& part) {
  return part ? fmt::format("{:.3f}%", 100 * *part) : "-";
}

std::string mebibytes(std::size_t bytes) {
  return fmt::format("{:.2f} MiB", static_cast<double>(bytes) / (1 << 20));
}

/// Layers in the precision of the linear that was asked for, and those kept.
std::int64_t count_kept(const QuantizeReport& report, Kept kept) {
  return std::count_if(report.layers.begin(), report.layers.end(),
                       [&](const QuantizedLayer& l) { return l.kept == kept; });
}

}  // namespace

std::string summary_text(const QuantizeSummary& s) {
  std::string text;
  const auto out = std::back_inserter(text);
  const QuantizeReport& r = s.report;
  const char* items = s.windows ? "windows" : "steps";
  fmt::format_to(out, "{} -> {}: {}\n", s.model, s.out, s.precision);
  const auto line = [&](const char* name, const std::string& value) {
    fmt::format_to(out, "  {:<14} {}\n", name, value);
  };
  line("memory",
       fmt::format("{} -> {} ({:.2f} x)", mebibytes(s.bytes_before), mebibytes(s.bytes_after),
                   static_cast<double>(s.bytes_before) /
                       static_cast<double>(std::max<std::size_t>(1, s.bytes_after))));
  line("output error", fmt::format("{:.3f}% of the behaviour's spread, {} observed {} of {}",
                                   100 * s.output_error, s.items, items, s.recording));
  if (s.before.rows > 0)
    line("R2", fmt::format("{:.4f} -> {:.4f} ({:+.4f}), {} {}", s.before.mean, s.after.mean,
                           s.after.mean - s.before.mean, s.before.rows, items));
  else
    line("R2", "nothing to score");
  line("held out", s.held_out);
  if (!r.rules.empty()) {
    std::string rules;
    for (const auto& [rule, error] : r.rules)
      rules += fmt::format("{}{} {}", rules.empty() ? "" : ", ", rule, percent(error));
    line("clipping", fmt::format("{} (output error over {} {} that are not held out: {})", r.rule,
                                 r.choice_items, items, rules));
    line("kept in bf16",
         fmt::format("{} only multiplied at load, {} that would hurt (limit {})",
                     count_kept(r, Kept::load), count_kept(r, Kept::hurts), percent(s.max_error)));
  }
  std::size_t width = 5;
  for (const QuantizedLayer& l : r.layers) width = std::max(width, l.name.size());
  fmt::format_to(out, "\n  {:<{}}  {:>12}  {:<5} {:<10} {:>8} {:>8} {:>8}\n", "layer", width,
                 "shape", "as", "clipping", "weights", "result", "model");
  for (const QuantizedLayer& l : r.layers) {
    std::string row = fmt::format("  {:<{}}  {:>12}  {:<5} {:<10} {:>8} {:>8} {:>8}", l.name, width,
                                  to_string(l.shape), precision_name(l.dtype),
                                  l.clipping ? to_string(*l.clipping) : "", percent(l.weight_error),
                                  percent(l.linear_error), percent(l.effect));
    if (l.kept != Kept::no) row += fmt::format("  {}", reason(l.kept));
    fmt::format_to(out, "{}\n", row);
  }
  fmt::format_to(out,
                 "  errors are relative: of the weights; of the linear's own result; of the "
                 "model's output with this\n  linear alone in int8, the others in bf16\n");
  return text;
}

std::string summary_json(const QuantizeSummary& s) {
  const QuantizeReport& r = s.report;
  JsonWriter w;
  const auto optional = [&](const char* key, const std::optional<double>& value) {
    w.key(key);
    value ? w.value(*value) : w.null();
  };
  const auto score = [&](const char* key, const char* per_dim, const R2& r2) {
    w.key(key);
    r2.rows > 0 ? w.value(r2.mean) : w.null();
    w.key(per_dim).begin_array();
    if (r2.rows > 0)
      for (const double v : r2.per_dim) w.value(v);
    w.end_array();
  };
  w.begin_object().key("model").value(s.model).key("out").value(s.out);
  w.key("calibration").value(s.recording).key("precision").value(s.precision);
  w.key("bytes_before").value(s.bytes_before).key("bytes_after").value(s.bytes_after);
  w.key("file_bytes_before").value(s.file_bytes_before);
  w.key("file_bytes_after").value(s.file_bytes_after);
  w.key("output_error").value(s.output_error);
  w.key("compared").value(s.items).key("items").value(s.windows ? "windows" : "steps");
  score("r2_before", "r2_before_per_dim", s.before);
  score("r2_after", "r2_after_per_dim", s.after);
  w.key("scored").value(s.before.rows).key("held_out").value(s.held_out);
  w.key("choice_error").value(r.choice_error).key("choice_items").value(r.choice_items);
  w.key("max_error").value(s.max_error).key("clipping");
  r.rules.empty() ? w.null() : w.value(r.rule);
  w.key("clipping_errors").begin_object();
  for (const auto& [rule, error] : r.rules) w.key(rule).value(error);
  w.end_object().key("layers").begin_array();
  for (const QuantizedLayer& l : r.layers) {
    w.begin_object().key("name").value(l.name).key("shape").begin_array();
    for (const std::int64_t d : l.shape) w.value(d);
    w.end_array().key("precision").value(precision_name(l.dtype)).key("clipping");
    l.clipping ? w.value(to_string(*l.clipping)) : w.null();
    w.key("kept").value(reason(l.kept)).key("weight_error").value(l.weight_error);
    optional("linear_error", l.linear_error);
    optional("output_error", l.effect);
    w.end_object();
  }
  return w.end_array().end_object().text();
}

}  // namespace cortex
