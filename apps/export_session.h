#pragma once

#include <cortex/result.h>

#include "data/recording.h"
#include "record/flight_log.h"

namespace cortex {

/// A recorded session as a recording whose time 0 is the start of its step 0: its units' spikes,
/// spread evenly over their bins, since a bin is all that a client said of them; the decoded
/// outputs as series `decoded` (one a unit of measure), and `latency`, ms from submission to
/// answer, both at the time that an answer is of. Observed is what the log holds: neither a
/// client's gaps nor what was lost. Units whose ids are no whole numbers are numbered; the
/// description says which is which. invalid_argument: a session without steps.
Result<Recording> to_recording(const record::FlightLog& log,
                               const record::RecordedSession& session);

}  // namespace cortex
