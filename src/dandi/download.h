#pragma once

#include <cortex/result.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "dandi/http.h"

namespace cortex::dandi {

struct Progress {
  std::uint64_t bytes = 0;  ///< there, of those to be there in the end
  std::uint64_t total_bytes = 0;
  std::size_t files = 0;  ///< finished, well or not
  std::size_t total_files = 0;
  double bytes_per_s = 0;  ///< received, since the start
};

enum class FileState { downloaded, already_there, failed };

struct FileReport {
  std::string asset_id;
  std::string asset_path;
  std::string path;  ///< on this machine
  std::uint64_t bytes = 0;
  std::uint64_t resumed_bytes = 0;  ///< an earlier run had brought these
  std::string sha256, dandi_etag;   ///< verified; empty where the archive does not say
  FileState state = FileState::failed;
  std::string error;  ///< of a failed one
};

struct DownloadOptions {
  std::string api = "https://api.dandiarchive.org/api";
  std::string dandiset;
  std::string version;  ///< empty: the latest published one, or the draft
  std::string out;      ///< folder; created
  std::string glob;     ///< of asset paths, '*' also over '/'; empty: all
  int jobs = 4;         ///< requests at once, over all files and ranges of a file
  std::uint64_t range_bytes = 16u << 20;
  bool overwrite = false;  ///< a file of other content that is in the way
  HttpPolicy http;
  /// Called from the calling thread, about five times a second and at the end.
  std::function<void(const Progress&)> on_progress;
  /// Called from the calling thread as files end.
  std::function<void(const FileReport&)> on_file;
  /// Bytes free in a folder; empty: what the operating system says.
  std::function<std::uint64_t(const std::string&)> free_bytes;
};

struct DownloadReport {
  std::string dandiset;
  std::string version;
  std::vector<FileReport> files;
  std::uint64_t received_bytes = 0;  ///< over the network, this time
  double seconds = 0;

  std::size_t failed() const;
};

/// Downloads what matches into `out`, each file under its asset's path, verified by every digest
/// that the archive states before it gets its name. A file that fails does not stop the others: it
/// is reported as failed, and its ranges stay for the next run. A file already there with the right
/// digests is left alone.
///
/// Errors before anything is fetched: invalid_argument (identifier, version, jobs, an asset path
/// that leads out of `out`), not_found (no such dandiset, nothing matches `glob`),
/// resource_exhausted (not enough free space, saying how much), and those of `list_assets`.
Result<DownloadReport> download(const DownloadOptions& options);

}  // namespace cortex::dandi
