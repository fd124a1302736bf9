#pragma once

#include <functional>
#include <string_view>

#include "serve/kept_answer.h"
#include "serve/serve_state.h"

namespace cortex {

/// Called once, on the network thread, with what became of a window.
using WindowDone = std::function<void(const KeptAnswer& answer, TracePtr trace)>;

/// Queues a window and counts its answer under `endpoint` (of static storage). A refusal at the
/// door comes to `done` at once. The result takes the window back while no batch has it; `done` is
/// then never called.
Withdraw submit_window(ServeState& state, const ModelRef& model, std::string_view endpoint,
                       const WindowRequest& window, TimeNs arrived_ns, TracePtr trace,
                       WindowDone done);

}  // namespace cortex
