#include <cortex/engine.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <vector>

/// The engine for Python: events and velocities are NumPy arrays, and no call holds the interpreter
/// while it computes.
namespace {

namespace py = pybind11;
using cortex::Engine;

/// Columns unit, value, bin.
using EventRows = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;

/// Raised as cortex_engine.Error, with the code's name in front.
struct PythonError : std::runtime_error {
  explicit PythonError(const cortex::Error& e)
      : std::runtime_error(std::string(cortex::to_string(e.code)) + ": " + e.message) {}
};

template <class T>
T take(cortex::Result<T> result) {
  if (!result) throw PythonError(result.error());
  return *std::move(result);
}

std::int32_t to_int32(std::int64_t x, py::ssize_t row, const char* column) {
  if (x < INT32_MIN || x > INT32_MAX)
    throw py::value_error("events[" + std::to_string(row) + "]: " + column + " is " +
                          std::to_string(x));
  return static_cast<std::int32_t>(x);
}

class Session {
 public:
  Session(std::shared_ptr<Engine> engine, std::vector<std::string> unit_ids)
      : engine_(std::move(engine)) {
    id_ = take(engine_->open_session({.unit_ids = std::move(unit_ids), .best_effort = true})).id;
  }
  ~Session() { close(); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  py::array_t<float> step(const EventRows& rows) {
    if (closed_) throw PythonError({cortex::ErrorCode::not_found, "the session is closed", {}});
    if (rows.size() > 0 && (rows.ndim() != 2 || rows.shape(1) != 3))
      throw py::value_error("events are not an array of [count, 3]: unit, value, bin");
    std::vector<cortex::Event> events;  // its own: another thread may be in here while this waits
    const py::ssize_t count = rows.size() / 3;
    for (py::ssize_t i = 0; i < count; ++i)
      events.push_back(
          {to_int32(rows.at(i, 0), i, "unit"), to_int32(rows.at(i, 1), i, "value"), rows.at(i, 2)});
    const cortex::StepRequest request{
        .session = id_, .sequence = next_, .events = events, .best_effort = true};
    const cortex::OwnedAnswer answer = [&] {
      const py::gil_scoped_release unlocked;
      return take(engine_->step(request));
    }();
    ++next_;
    return py::array_t<float>(static_cast<py::ssize_t>(answer.behavior.size()),
                              answer.behavior.data());
  }
  void close() {
    if (!closed_) (void)engine_->close_session(id_);
    closed_ = true;
  }
  std::int64_t next_step() const { return next_; }

 private:
  std::shared_ptr<Engine> engine_;  // outlives the session
  cortex::SessionId id_ = 0;
  std::int64_t next_ = 0;
  bool closed_ = false;
};

}  // namespace

PYBIND11_MODULE(cortex_engine, m) {
  m.doc() = "Real-time decoding of neural population activity, in process";
  py::register_exception<PythonError>(m, "Error", PyExc_RuntimeError);

  py::class_<Session, std::unique_ptr<Session>>(m, "Session")
      .def("step", &Session::step, py::arg("events"),
           "Decodes the next step. events: integers [count, 3], columns unit, value (spikes), bin "
           "from the session's start; may be empty. Returns float32 [outputs] in physical units.")
      .def("close", &Session::close)
      .def_property_readonly("next_step", &Session::next_step)
      .def(
          "__enter__", [](Session& s) -> Session& { return s; }, py::return_value_policy::reference)
      .def("__exit__", [](Session& s, const py::args&) { s.close(); });

  py::class_<Engine, std::shared_ptr<Engine>>(m, "Engine")
      .def(py::init([](const std::string& model, const std::string& device, int max_sessions,
                       int threads, bool realtime) {
             cortex::EngineOptions o;
             o.model_path = model;
             o.device = device;
             o.max_sessions = max_sessions;
             o.threads = threads;
             o.realtime = realtime;
             o.idle_timeout_s = 1e9;
             const py::gil_scoped_release unlocked;
             return std::shared_ptr<Engine>(take(Engine::create(o)));
           }),
           py::arg("model"), py::arg("device") = "auto", py::arg("max_sessions") = 16,
           py::arg("threads") = 0, py::arg("realtime") = false)
      .def(
          "open",
          [](const std::shared_ptr<Engine>& engine, std::vector<std::string> unit_ids) {
            return std::make_unique<Session>(engine, std::move(unit_ids));
          },
          py::arg("unit_ids") = std::vector<std::string>{},
          "A session of its own memory. unit_ids: the session's units in the order that events "
          "index them; empty for the model's.")
      .def_property_readonly("unit_ids", [](const Engine& e) { return e.model().unit_ids; })
      .def_property_readonly("outputs",
                             [](const Engine& e) {
                               std::vector<std::pair<std::string, std::string>> outputs;
                               for (const auto& o : e.model().outputs)
                                 outputs.emplace_back(o.name, o.unit);
                               return outputs;
                             })
      .def_property_readonly("bin_ms", [](const Engine& e) { return e.model().bin_ms; })
      .def_property_readonly("bins_per_step",
                             [](const Engine& e) { return e.model().bins_per_step; })
      .def_property_readonly("backend", [](const Engine& e) { return e.model().backend; });
}
