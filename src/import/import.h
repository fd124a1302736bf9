#pragma once

#include <cortex/result.h>

#include <string>
#include <vector>

#include "data/recording.h"

/// Recordings from other formats. Each reader takes what it understands and refuses the rest by
/// name, so that nothing of a session is lost in silence.
///
///     auto recording = cortex::import_recording("session.nev", {});
///     if (recording) cortex::write_nwb("session.nwb", *recording);
namespace cortex {

struct ImportOptions {
  std::vector<std::string> behavior;  ///< CSV files, a series each (see import/csv.h)
  std::string trials;                 ///< CSV file of trials; empty: none
  std::vector<std::string> ignore;    ///< MATLAB variables to leave out
};

/// By the file's extension: .csv (events), .mat or .nev. The identifier is the file's name.
/// invalid_argument: another extension; not_found; corrupt_data or unsupported, naming file and
/// place (line and column, variable, or byte).
Result<Recording> import_recording(const std::string& path, const ImportOptions& options);

}  // namespace cortex
