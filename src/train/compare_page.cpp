#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "train/compare.h"
#include "train/figure.h"
#include "train/tracking.h"

namespace cortex::train {
namespace {

constexpr std::size_t kCloud = 1500;  // points of a scatter plot, at most

constexpr const char* kStyle =
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;"
    "color:#222;background:#fff}table{border-collapse:collapse}th,td{padding:.3em .8em;"
    "border-bottom:1px solid #ccc;text-align:right}th:first-child,td:first-child{text-align:left}"
    "svg{margin:.4em}svg text{font:11px system-ui,sans-serif;fill:#333}svg .title{font-weight:600}"
    "svg .grid{stroke:#e4e4e4}.best{font-weight:600}";

std::string number(double v) { return fmt::format("{:.4f}", v); }

std::string table(const CompareReport& report) {
  std::string out = "<table><thead><tr><th>decoder</th><th>R²</th><th>95 % interval</th>";
  for (const std::string& name : report.output_names) out += "<th>" + escape_html(name) + "</th>";
  out += "<th>reset at each trial</th>";
  if (!report.best_baseline.empty())
    out += "<th>minus " + escape_html(report.best_baseline) + "</th><th>p</th>";
  out += "<th>parameters</th><th>fitting, s</th></tr></thead><tbody>";
  double best = -1e300;
  for (const CompareRow& row : report.rows) best = std::max(best, row.score.mean);
  for (const CompareRow& row : report.rows) {
    out += fmt::format("<tr{}><td>{}</td><td>{}</td><td>{} to {}</td>",
                       row.score.mean == best ? " class=\"best\"" : "", escape_html(row.name),
                       number(row.score.mean), number(row.interval.low), number(row.interval.high));
    for (const double v : row.score.per_dim) out += "<td>" + number(v) + "</td>";
    out += "<td>" + number(row.reset.mean) + "</td>";
    if (!report.best_baseline.empty()) {
      if (row.name == report.best_baseline)
        out += "<td></td><td></td>";
      else
        out += fmt::format("<td>{:+.4f} ({:+.4f} to {:+.4f})</td><td>{:.3f}</td>",
                           row.difference.difference, row.difference.low, row.difference.high,
                           row.difference.p);
    }
    out += fmt::format("<td>{}</td><td>{:.0f}</td></tr>", row.parameters, row.fit_s);
  }
  return out + "</tbody></table>";
}

std::string curves(const CompareReport& report, const char* title, const char* x_label,
                   std::vector<CurvePoint> CompareRow::*curve) {
  Figure figure{title, x_label, "R²", {}};
  for (std::size_t i = 0; i < report.rows.size(); ++i) {
    Series series{report.rows[i].name, series_colour(i), {}};
    for (const CurvePoint& p : report.rows[i].*curve) series.points.emplace_back(p.x, p.r2);
    if (!series.points.empty()) figure.series.push_back(std::move(series));
  }
  return to_svg(figure);
}

std::string traces(const CompareReport& report, const CompareRow& row, std::size_t colour) {
  const std::size_t dims = report.output_names.size();
  std::string out;
  for (std::size_t d = 0; d < dims; ++d) {
    Figure figure{row.name + ": " + report.output_names[d],
                  "s of tested trials, end to end",
                  report.output_unit,
                  {}};
    Series truth{"measured", "#999999", {}};
    Series decoded{"decoded", series_colour(colour), {}};
    double time = 0;
    for (const Trace& trace : row.traces)
      for (std::size_t s = 0; s < trace.truth.size() / dims; ++s, time += report.step_ms / 1000) {
        truth.points.emplace_back(time, trace.truth[s * dims + d]);
        decoded.points.emplace_back(time, trace.decoded[s * dims + d]);
      }
    figure.series = {truth, decoded};
    out += to_svg(figure);
  }
  return out;
}

std::string scatter(const CompareReport& report, const CompareRow& row, std::size_t colour) {
  Figure figure{row.name, "measured, " + report.output_unit, "decoded, " + report.output_unit, {}};
  figure.width = figure.height = 280;
  Series cloud{"", series_colour(colour), {}, true};
  double low = 0;
  double high = 0;
  std::size_t count = 0;
  for (const Trace& trace : row.traces)
    for (std::size_t i = 0; i < trace.truth.size() && count < kCloud; ++i, ++count) {
      cloud.points.emplace_back(trace.truth[i], trace.decoded[i]);
      low = std::min<double>(low, trace.truth[i]);
      high = std::max<double>(high, trace.truth[i]);
    }
  figure.series = {Series{"", "#999999", {{low, low}, {high, high}}, false, true}, cloud};
  return to_svg(figure);
}

}  // namespace

std::string compare_page(const CompareReport& report, const CompareOptions& options) {
  std::vector<std::string> files;
  for (const std::string& path : options.data.nwb)
    files.push_back(escape_html(std::filesystem::path(path).filename().string()));
  const FoldOptions& folds = *options.data.folds;
  const TrainOptions& t = options.training;
  std::string out = fmt::format(
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Decoders compared"
      "</title><style>{}</style></head><body><h1>Decoders compared</h1><p>{}: {} steps of {} "
      "trials, protocol <b>{}</b>, {} ms steps, {} folds dealt {} (seed {}). Every decoder sees "
      "the same training trials of a fold, {}, and is scored on its tested ones; nothing is chosen "
      "on a tested trial. Networks have the same budget: {}, seed {}. Intervals and paired "
      "differences are from {} draws of trials. Revision {}.</p>",
      kStyle, fmt::join(files, ", "), report.steps, report.trials, report.protocol, report.step_ms,
      report.folds, folds.scheme == FoldScheme::trial ? "by trial" : "in blocks", folds.seed,
      options.data.protocol.protocol == Protocol::onset
          ? "of each the step at onset (kalman: all their steps)"
          : "all their steps",
      t.minutes > 0 ? fmt::format("{:g} minutes a fold", t.minutes)
                    : fmt::format("{} updates a fold", t.iterations),
      t.seed, options.resamples, source_revision());
  out += table(report);
  out +=
      "<h2>First fold</h2><p>Lag: the truth is read that much after the answer's own time; a "
      "peak to the left is an answer that comes late. Units: the others fall silent.</p>";
  // Under `onset` a trial is one step: nothing to shift, and no trace.
  const bool whole = report.steps > report.trials;
  if (whole) out += curves(report, "R² by lag", "ms", &CompareRow::by_lag);
  out += curves(report, "R² by units kept", "share of units", &CompareRow::by_units);
  out += curves(report, "R² by training time", "minutes", &CompareRow::by_minutes);
  out += "<h2>Scatter</h2>";
  for (std::size_t i = 0; i < report.rows.size(); ++i) out += scatter(report, report.rows[i], i);
  if (whole) out += "<h2>Traces</h2>";
  for (std::size_t i = 0; whole && i < report.rows.size(); ++i)
    out += traces(report, report.rows[i], i);
  return out + "</body></html>\n";
}

}  // namespace cortex::train
