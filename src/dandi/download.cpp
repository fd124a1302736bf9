#include "dandi/download.h"

#include <fmt/format.h>
#include <fnmatch.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "dandi/archive.h"
#include "dandi/part_file.h"
#include "dandi/target_path.h"

namespace cortex::dandi {
namespace {

constexpr std::uint64_t kSpareBytes = 16u << 20;  // left to the file system

enum class Stage {
  waiting,  // nothing done yet
  busy,     // one worker has the whole file: opening, all of it at once, or verifying
  ranges,   // workers take its ranges
  whole,    // its server sends whole files only; starts when no range is under way
  ended
};

struct Job {
  Asset asset;
  FileReport report;
  Stage stage = Stage::waiting;
  std::optional<PartFile> part;
  std::size_t next_range = 0;
  std::size_t under_way = 0;
  std::string error;  // the first that a range had
};

struct Task {
  enum class Kind { open, range, whole, none } kind = Kind::none;
  Job* job = nullptr;
  std::size_t range = 0;
};

/// Hands ranges of files to workers and files to the caller as they end.
class Run {
 public:
  Run(const DownloadOptions& options, std::deque<Job>& jobs) : options_(options), jobs_(jobs) {
    for (const Job& job : jobs) total_bytes_ += job.asset.bytes;
  }

  void run() {
    started_ = std::chrono::steady_clock::now();
    std::vector<std::thread> workers(static_cast<std::size_t>(options_.jobs));
    for (std::thread& worker : workers) worker = std::thread([this] { work(); });
    watch();
    for (std::thread& worker : workers) worker.join();
  }

  std::uint64_t received() const { return received_; }
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
  }

 private:
  /// Counts the bytes of one request into the progress; takes them back where they come again.
  class Counted {
   public:
    Counted(Run& run, std::uint64_t first) : run_(run), first_(first) {}
    void add(std::uint64_t offset, std::size_t bytes) {
      const std::uint64_t before = offset - first_;
      if (before < counted_) forget(counted_ - before);
      counted_ += bytes;
      run_.there_ += bytes;
      run_.received_ += bytes;
    }
    void forget_all() { forget(counted_); }

   private:
    void forget(std::uint64_t bytes) {
      run_.there_ -= bytes;
      counted_ -= bytes;
    }
    Run& run_;
    std::uint64_t first_, counted_ = 0;
  };

  void work() {
    HttpSession http(options_.http);
    for (;;) {
      const Task task = take();
      switch (task.kind) {
        case Task::Kind::open:
          open(*task.job);
          break;
        case Task::Kind::range:
          fetch_range(http, *task.job, task.range);
          break;
        case Task::Kind::whole:
          fetch_whole(http, *task.job);
          break;
        case Task::Kind::none:
          return;
      }
    }
  }

  /// Waits for something to do; none: all files have ended.
  Task take() {
    std::unique_lock lock(mutex_);
    for (;;) {
      bool all_ended = true;
      for (Job& job : jobs_) {
        all_ended = all_ended && job.stage == Stage::ended;
        if (job.stage == Stage::waiting) {
          job.stage = Stage::busy;
          return {Task::Kind::open, &job};
        }
        if (job.stage == Stage::whole && job.under_way == 0) {
          job.stage = Stage::busy;
          return {Task::Kind::whole, &job};
        }
        if (job.stage != Stage::ranges || !job.error.empty()) continue;
        while (job.next_range < job.part->ranges() && job.part->done(job.next_range))
          ++job.next_range;
        if (job.next_range == job.part->ranges()) continue;
        ++job.under_way;
        return {Task::Kind::range, &job, job.next_range++};
      }
      if (all_ended) return {};
      changed_.wait(lock);
    }
  }

  void end(Job& job, FileState state, const std::string& error = "") {
    const std::lock_guard lock(mutex_);
    job.report.state = state;
    job.report.error = error;
    job.part.reset();
    job.stage = Stage::ended;
    ended_.push_back(&job);
    changed_.notify_all();
  }

  void enter(Job& job, Stage stage) {
    const std::lock_guard lock(mutex_);
    job.stage = stage;
    changed_.notify_all();
  }

  void open(Job& job) {
    const Asset& asset = job.asset;
    const std::string& target = job.report.path;
    if (asset.zarr)
      return end(job, FileState::failed, "is a Zarr store, not a file; only files are downloaded");
    if (!asset.digests.any())
      return end(job, FileState::failed, "the archive states no digest to verify it by");
    struct stat info {};
    if (::stat(target.c_str(), &info) == 0) {
      bool same = S_ISREG(info.st_mode) && static_cast<std::uint64_t>(info.st_size) == asset.bytes;
      if (same) {
        const auto found = digest_file(target, asset.digests);
        same = found && check_digests(target, *found, asset.digests);
      }
      if (same) {
        there_ += asset.bytes;
        state_digests(job);
        return end(job, FileState::already_there);
      }
      if (!options_.overwrite)
        return end(job, FileState::failed,
                   target + " is there with other content; --overwrite replaces it");
    }
    const std::string identity =
        fmt::format("{} {} {}", asset.id, asset.digests.sha256, asset.digests.dandi_etag);
    auto part = PartFile::open(target, identity, asset.bytes, options_.range_bytes);
    if (!part) return end(job, FileState::failed, part.error().message);
    job.report.resumed_bytes = part->bytes_done();
    there_ += job.report.resumed_bytes;
    job.part.emplace(*std::move(part));
    if (job.report.resumed_bytes == asset.bytes) return verify(job);
    enter(job, Stage::ranges);
  }

  void fetch_range(HttpSession& http, Job& job, std::size_t range) {
    PartFile& part = *job.part;
    const std::uint64_t first = part.range_first(range);
    Counted counted(*this, first);
    const auto sink = [&](std::uint64_t offset, std::span<const std::byte> bytes) {
      counted.add(offset, bytes.size());
      return part.write(offset, bytes);
    };
    auto outcome =
        http.get_range(job.asset.url, first, part.range_count(range), job.asset.bytes, sink);
    std::string error;
    if (!outcome)
      error = outcome.error().message;
    else if (*outcome == RangeOutcome::complete)
      if (auto ok = part.mark_done(range); !ok) error = ok.error().message;
    const bool ignored = outcome && *outcome == RangeOutcome::ranges_ignored;
    if (!error.empty() || ignored) counted.forget_all();

    std::unique_lock lock(mutex_);
    --job.under_way;
    if (ignored) job.stage = Stage::whole;
    if (job.error.empty()) job.error = error;
    const bool last = job.under_way == 0 && job.stage == Stage::ranges &&
                      (!job.error.empty() || rest_is_done(job));
    if (last) job.stage = Stage::busy;
    changed_.notify_all();
    lock.unlock();
    if (last && !job.error.empty()) return end(job, FileState::failed, job.error);
    if (last) verify(job);
  }

  static bool rest_is_done(const Job& job) {
    for (std::size_t r = job.next_range; r < job.part->ranges(); ++r)
      if (!job.part->done(r)) return false;
    return true;
  }

  void fetch_whole(HttpSession& http, Job& job) {
    PartFile& part = *job.part;
    there_ -= part.bytes_done();
    job.report.resumed_bytes = 0;
    if (auto ok = part.restart(); !ok) return end(job, FileState::failed, ok.error().message);
    Counted counted(*this, 0);
    const auto sink = [&](std::uint64_t offset, std::span<const std::byte> bytes) {
      counted.add(offset, bytes.size());
      return part.write(offset, bytes);
    };
    auto ok = http.get_whole(job.asset.url, job.asset.bytes, sink);
    for (std::size_t r = 0; ok && r < part.ranges(); ++r) ok = part.mark_done(r);
    if (ok) return verify(job);
    counted.forget_all();
    end(job, FileState::failed, ok.error().message);
  }

  void verify(Job& job) {
    const auto found = digest_file(job.part->part_path(), job.asset.digests);
    if (!found) return end(job, FileState::failed, found.error().message);
    if (auto ok = check_digests(job.report.path, *found, job.asset.digests); !ok) {
      there_ -= job.asset.bytes;
      if (job.report.resumed_bytes > 0) {
        // What the earlier run left may be what is wrong.
        job.report.resumed_bytes = 0;
        if (auto again = job.part->restart(); !again)
          return end(job, FileState::failed, again.error().message);
        job.next_range = 0;
        return enter(job, Stage::ranges);
      }
      job.part->discard();
      return end(job, FileState::failed, ok.error().message + "; removed");
    }
    if (auto ok = job.part->finish(); !ok) return end(job, FileState::failed, ok.error().message);
    state_digests(job);
    end(job, FileState::downloaded);
  }

  static void state_digests(Job& job) {
    job.report.sha256 = job.asset.digests.sha256;
    job.report.dandi_etag = job.asset.digests.dandi_etag;
  }

  /// Reports until all files have ended.
  void watch() {
    std::size_t told = 0;
    for (;;) {
      std::vector<const Job*> fresh;
      {
        std::unique_lock lock(mutex_);
        if (ended_.size() == told && told < jobs_.size())
          changed_.wait_for(lock, std::chrono::milliseconds(200));
        fresh.assign(ended_.begin() + static_cast<std::ptrdiff_t>(told), ended_.end());
      }
      told += fresh.size();
      if (options_.on_file)
        for (const Job* job : fresh) options_.on_file(job->report);
      if (options_.on_progress) {
        const double elapsed = std::max(seconds(), 1e-3);
        options_.on_progress(
            {there_, total_bytes_, told, jobs_.size(), static_cast<double>(received_) / elapsed});
      }
      if (told == jobs_.size()) return;
    }
  }

  const DownloadOptions& options_;
  std::deque<Job>& jobs_;
  std::uint64_t total_bytes_ = 0;
  std::chrono::steady_clock::time_point started_;
  std::atomic<std::uint64_t> there_{0}, received_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<const Job*> ended_;
};

Result<void> check_space(const DownloadOptions& options, const std::deque<Job>& jobs) {
  std::uint64_t needed = 0;
  for (const Job& job : jobs) {
    struct stat info {};
    const bool there = ::stat(job.report.path.c_str(), &info) == 0 &&
                       static_cast<std::uint64_t>(info.st_size) == job.asset.bytes;
    const std::uint64_t held = there ? job.asset.bytes : part_bytes_on_disk(job.report.path);
    needed += job.asset.bytes - std::min(held, job.asset.bytes);
  }
  if (needed == 0) return {};
  std::error_code failure;
  const std::uint64_t available = options.free_bytes
                                      ? options.free_bytes(options.out)
                                      : std::filesystem::space(options.out, failure).available;
  if (failure)
    return Error{ErrorCode::io_error, fmt::format("{}: {}", options.out, failure.message()), "out"};
  if (available < kSpareBytes || available - kSpareBytes < needed)
    return Error{ErrorCode::resource_exhausted,
                 fmt::format("{}: {:.1f} MB are needed and {:.1f} MB are free (16.8 MB of them "
                             "stay so); nothing was downloaded",
                             options.out, static_cast<double>(needed) * 1e-6,
                             static_cast<double>(available) * 1e-6),
                 "out"};
  return {};
}

Error nothing_matches(const DownloadOptions& options, const Listing& listing) {
  std::string some;
  for (std::size_t i = 0; i < std::min<std::size_t>(listing.assets.size(), 5); ++i)
    some += (i > 0 ? ", " : "") + listing.assets[i].path;
  if (listing.assets.size() > 5) some += ", ...";
  return {ErrorCode::not_found,
          fmt::format("no asset of {}/{} matches '{}'; of its {}: {}", listing.dandiset,
                      listing.version, options.glob, listing.assets.size(), some),
          "path"};
}

}  // namespace

std::size_t DownloadReport::failed() const {
  return static_cast<std::size_t>(
      std::count_if(files.begin(), files.end(),
                    [](const FileReport& file) { return file.state == FileState::failed; }));
}

Result<DownloadReport> download(const DownloadOptions& options) {
  const auto bad = [](const char* field, const std::string& what) {
    return Error{ErrorCode::invalid_argument, what, field};
  };
  if (options.jobs < 1 || options.jobs > 64)
    return bad("jobs", fmt::format("jobs is {}, not 1 to 64", options.jobs));
  if (options.range_bytes < 1) return bad("range_bytes", "range_bytes is 0");
  if (!options.api.starts_with("http://") && !options.api.starts_with("https://"))
    return bad("api", fmt::format("api '{}' is not an http or https address", options.api));
  if (options.out.empty()) return bad("out", "out is empty: where should the files go?");
  HttpSession http(options.http);
  const auto listing = list_assets(http, options.api, options.dandiset, options.version);
  if (!listing) return listing.error();
  std::error_code failure;
  std::filesystem::create_directories(options.out, failure);
  if (failure)
    return Error{ErrorCode::io_error,
                 fmt::format("{}: cannot create: {}", options.out, failure.message()), "out"};
  std::deque<Job> jobs;
  for (const Asset& asset : listing->assets) {
    if (!options.glob.empty() && ::fnmatch(options.glob.c_str(), asset.path.c_str(), 0) != 0)
      continue;
    auto path = target_path(options.out, asset.path);
    if (!path) return path.error();
    Job& job = jobs.emplace_back();
    job.asset = asset;
    job.report.asset_id = asset.id;
    job.report.asset_path = asset.path;
    job.report.path = *std::move(path);
    job.report.bytes = asset.bytes;
  }
  if (jobs.empty()) return nothing_matches(options, *listing);
  if (auto ok = check_space(options, jobs); !ok) return ok.error();
  Run run(options, jobs);
  run.run();
  DownloadReport report{listing->dandiset, listing->version, {}, run.received(), run.seconds()};
  for (Job& job : jobs) report.files.push_back(std::move(job.report));
  return report;
}

}  // namespace cortex::dandi
