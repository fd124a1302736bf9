#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

#include "commands.h"
#include "core/json_writer.h"
#include "dandi/download.h"

namespace cortex {
namespace {

using dandi::FileReport;
using dandi::FileState;
using dandi::Progress;

struct DownloadFlags {
  dandi::DownloadOptions options;
  double range_mib = 16;
  bool json = false;
  bool quiet = false;
};

std::string megabytes(std::uint64_t bytes) {
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) * 1e-6);
}

const char* state_name(FileState state) {
  switch (state) {
    case FileState::downloaded:
      return "downloaded";
    case FileState::already_there:
      return "already there";
    case FileState::failed:
      break;
  }
  return "failed";
}

/// On standard error: a bar that is redrawn on a terminal, elsewhere a line every ten seconds.
class ProgressView {
 public:
  void show(const Progress& progress) {
    const double share = progress.total_bytes == 0 ? 1
                                                   : static_cast<double>(progress.bytes) /
                                                         static_cast<double>(progress.total_bytes);
    const std::string numbers =
        fmt::format("{:3.0f}%  {} of {}  {:.1f} MB/s  {} of {} files", share * 100,
                    megabytes(progress.bytes), megabytes(progress.total_bytes),
                    progress.bytes_per_s * 1e-6, progress.files, progress.total_files);
    if (terminal_) {
      const auto full = static_cast<std::size_t>(std::clamp(share, 0.0, 1.0) * kBar);
      fmt::print(stderr, "\r\033[K[{}{}] {}", std::string(full, '#'), std::string(kBar - full, '.'),
                 numbers);
      std::fflush(stderr);
      return;
    }
    const auto now = std::chrono::steady_clock::now();
    if (now - last_ < std::chrono::seconds(10)) return;
    last_ = now;
    fmt::print(stderr, "{}\n", numbers);
  }
  void line(const std::string& text) {
    fmt::print(stderr, "{}{}\n", terminal_ ? "\r\033[K" : "", text);
  }
  void end() {
    if (terminal_) line("");
  }

 private:
  static constexpr std::size_t kBar = 24;
  bool terminal_ = ::isatty(STDERR_FILENO) == 1;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

std::string as_json(const dandi::DownloadReport& report) {
  JsonWriter w;
  w.begin_object().key("dandiset").value(report.dandiset).key("version").value(report.version);
  w.key("received_bytes").value(report.received_bytes).key("seconds").value(report.seconds);
  w.key("failed").value(report.failed()).key("files").begin_array();
  for (const FileReport& file : report.files) {
    w.begin_object().key("path").value(file.path).key("asset_path").value(file.asset_path);
    w.key("asset_id").value(file.asset_id).key("bytes").value(file.bytes);
    w.key("resumed_bytes").value(file.resumed_bytes).key("state").value(state_name(file.state));
    if (!file.sha256.empty()) w.key("sha256").value(file.sha256);
    if (!file.dandi_etag.empty()) w.key("dandi_etag").value(file.dandi_etag);
    if (!file.error.empty()) w.key("error").value(file.error);
    w.end_object();
  }
  return w.end_array().end_object().text();
}

void run_download(const DownloadFlags& flags) {
  dandi::DownloadOptions options = flags.options;
  if (options.out.empty()) options.out = options.dandiset;
  options.range_bytes = static_cast<std::uint64_t>(flags.range_mib * (1 << 20));
  ProgressView view;
  if (!flags.quiet) {
    options.on_progress = [&](const Progress& progress) { view.show(progress); };
    options.on_file = [&](const FileReport& file) {
      std::string line = fmt::format("{}: {}, {}", file.path, state_name(file.state),
                                     file.error.empty() ? megabytes(file.bytes) : file.error);
      if (file.resumed_bytes > 0)
        line += fmt::format(" ({} from before)", megabytes(file.resumed_bytes));
      view.line(line);
    };
  }
  auto result = dandi::download(options);
  if (!flags.quiet) view.end();
  const dandi::DownloadReport report = std::move(result).value_or_throw();
  if (flags.json)
    fmt::print("{}\n", as_json(report));
  else
    fmt::print("{}/{}: {} files in {}, {} received in {:.1f} s\n", report.dandiset, report.version,
               report.files.size() - report.failed(), options.out, megabytes(report.received_bytes),
               report.seconds);
  std::fflush(stdout);
  if (report.failed() == 0) return;
  const auto first =
      std::find_if(report.files.begin(), report.files.end(),
                   [](const FileReport& file) { return file.state == FileState::failed; });
  throw Exception{
      {ErrorCode::unavailable,
       fmt::format("{} of {} files failed, the first: {}: {}. The same command goes on "
                   "where this one stopped",
                   report.failed(), report.files.size(), first->asset_path, first->error),
       "files"}};
}

}  // namespace

void add_download(CLI::App& app) {
  auto flags = std::make_shared<DownloadFlags>();
  dandi::DownloadOptions& o = flags->options;
  CLI::App* command =
      app.add_subcommand("download", "Download recordings from the DANDI archive, verified.");
  command->add_option("--dandiset", o.dandiset, "six digits, e.g. 000128")->required();
  command->add_option("--version", o.version,
                      "e.g. 0.220113.0400, or draft (default: the latest published one, else the "
                      "draft)");
  command->add_option("--out", o.out, "folder (default: the dandiset's number)");
  command->add_option("--path", o.glob, "only assets whose path matches, e.g. '*train*.nwb'");
  command->add_option("--jobs", o.jobs, "requests at once")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command->add_option("--range-mib", flags->range_mib, "bytes of one request, MiB")
      ->check(CLI::Range(0.001, 1024.0))
      ->capture_default_str();
  command->add_option("--attempts", o.http.attempts, "of one request, before a file is given up")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  command->add_option("--api", o.api, "address of the archive's API")->capture_default_str();
  command->add_flag("--overwrite", o.overwrite, "replace files of other content");
  command->add_flag("--quiet", flags->quiet, "no progress");
  command->add_flag("--json", flags->json, "print one JSON object");
  command->footer(
      "Interrupted, the same command goes on where it was.\n"
      "Example: the recordings of MC_Maze\n"
      "  cortex download --dandiset 000128 --out data/000128 --path '*.nwb'");
  command->callback([flags] { run_download(*flags); });
}

}  // namespace cortex
