#include "train/tracking.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>

#include "core/file.h"
#include "core/json_writer.h"
#include "cortex_revision.h"

namespace cortex::train {
namespace {

namespace fs = std::filesystem;

/// FNV-1a over a file's bytes: tells files apart, guards against nothing. Empty: it cannot be read.
std::string file_digest(const std::string& path) {
  const auto bytes = read_file(path);
  if (!bytes) return {};
  std::uint64_t h = 0xcbf29ce484222325ULL;
  for (const std::byte b : *bytes) h = (h ^ static_cast<std::uint64_t>(b)) * 0x100000001b3ULL;
  return fmt::format("{:016x}", h);
}

void write_recordings(JsonWriter& w, const Timeline& training) {
  w.key("recordings").begin_array();
  std::string last;
  for (const TimelinePart& part : training.parts) {
    if (part.path == last) continue;
    last = part.path;
    std::error_code ec;
    const auto size = fs::file_size(part.path, ec);
    w.begin_object().key("file").value(fs::path(part.path).filename().string());
    w.key("session").value(part.session);
    if (!ec) {
      w.key("bytes").value(static_cast<std::int64_t>(size));
      w.key("digest").value(file_digest(part.path));
    }
    w.end_object();
  }
  w.end_array();
}

void write_options(JsonWriter& w, const TrainOptions& o) {
  w.key("options").begin_object();
  w.key("preset").value(o.preset).key("seed").value(o.seed);
  w.key("iterations").value(o.iterations).key("minutes").value(o.minutes);
  w.key("batch").value(o.batch).key("accumulate").value(o.accumulate);
  w.key("crop_steps").value(o.crop_steps).key("lr").value(o.lr);
  w.key("weight_decay").value(o.weight_decay).key("clip").value(o.clip).key("ema").value(o.ema);
  w.key("unit_dropout").value(o.unit_dropout).key("thinning").value(o.thinning);
  if (o.fresh_starts) w.key("fresh_starts").value(*o.fresh_starts);
  w.key("warmup_iterations").value(o.warmup_iterations).key("bf16").value(o.bf16);
  w.key("learn").value(o.learn).key("train_trials").begin_array();
  for (const std::int64_t trials : o.train_trials) w.value(trials);
  w.end_array();
  w.key("select").value(o.select).key("target").value(o.data.target);
  w.key("units").value(o.data.units).key("units_by").value(o.data.units_by);
  w.key("split_train").value(o.data.train_split).key("split_val").value(o.data.val_split);
  w.key("protocol").value(to_string(o.data.protocol.protocol));
  if (o.data.folds) {
    w.key("folds").value(o.data.folds->folds).key("fold").value(o.data.fold);
    w.key("fold_seed").value(o.data.folds->seed);
  }
  if (o.hiding) w.key("mask_units").value(o.hiding->units).key("mask_bins").value(o.hiding->bins);
  if (!o.init.empty()) {
    w.key("init").value(fs::path(o.init).filename().string());
    w.key("init_rows").value(o.init_rows);
  }
  w.end_object();
}

}  // namespace

const char* source_revision() { return CORTEX_REVISION; }

std::string run_record(const TrainOptions& options, const ModelConfig* config,
                       const Timeline& training) {
  JsonWriter w;
  w.begin_object().key("revision").value(source_revision());
  w.key("data_digest").value(training.digest);
  write_recordings(w, training);
  write_options(w, options);
  if (config != nullptr) w.key("config").raw(to_json(*config));
  return w.end_object().text();
}

std::string card_path(const std::string& model) {
  return fs::path(model).replace_extension(".card.md").string();
}

std::string model_card(const ModelCard& card) {
  const ModelConfig& c = card.config;
  const TrainOptions& o = card.options;
  const Timeline& t = card.training;
  std::string outputs;
  for (std::size_t i = 0; i < c.output_names.size(); ++i)
    outputs += fmt::format("{}{} ({})", i ? ", " : "", c.output_names[i], c.output_units[i]);
  std::vector<std::string> files;
  for (const TimelinePart& part : t.parts) {
    const std::string name = fs::path(part.path).filename().string();
    if (files.empty() || files.back() != name) files.push_back(name);
  }
  std::string text = fmt::format("# {}\n\n", fs::path(o.out).filename().string());
  text += fmt::format(
      "A {} decoder ({}) of {} from {} units, {} parameters.\n\n| | |\n|---|---|\n"
      "| answers | {} |\n"
      "| recordings | {} |\n"
      "| trained on | {} scored steps of split `{}`, protocol `{}`, data digest {} |\n",
      to_string(c.kind), c.preset, o.data.target, t.unit_ids.size(), card.parameters, outputs,
      fmt::join(files, ", "), t.scored(), o.data.train_split, to_string(o.data.protocol.protocol),
      t.digest);
  if (o.data.folds)
    text += fmt::format("| fold | {} of {}, seed {}: its trials were not seen |\n", o.data.fold,
                        o.data.folds->folds, o.data.folds->seed);
  if (c.streams())
    text += fmt::format("| step | {} ms; the answer is for {} ms from the end of its step |\n",
                        c.step_ms, c.target_offset_ms);
  if (card.scored)
    text += fmt::format("| R² | {:.4f} over {} steps of split `{}` (causal, continuous){} |\n",
                        card.score.mean, card.score.rows, o.data.val_split,
                        o.select == "best" ? "; the weights were chosen on them" : "");
  text += fmt::format(
      "| training | {} updates of {} crops, {:.0f} s on {}, seed {}, revision {} |\n\n"
      "It knows these units alone and one subject's {}. It answers in any state of the subject, "
      "whether or not the training data held that state: look at its speed at rest before it "
      "moves anything.\n",
      card.iteration, o.batch, card.seconds, card.device, o.seed, source_revision(),
      fmt::format("{} session(s)", files.size()));
  return text;
}

}  // namespace cortex::train
