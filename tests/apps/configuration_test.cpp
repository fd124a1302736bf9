// Settings of `cortex serve` from files, the environment, --set and flags.
#include <cortex/client.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "support/process.h"
#include "support/server_process.h"
#include "support/settings.h"

namespace cortex {
namespace {

using testing::contains;
using testing::Ran;

class Configuration : public testing::Settings {
 protected:
  Configuration() : Settings({CORTEX_BINARY, "serve"}) {}
};

TEST_F(Configuration, PrintsEverySettingAndWhereItCameFrom) {
  const Ran ran = run({"--print-config"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_TRUE(ran.out.starts_with("[serve]\n")) << ran.out;
  EXPECT_TRUE(contains(ran.out, "\nport = 8080  # default\n")) << ran.out;
  EXPECT_TRUE(contains(ran.out, "\nhost = \"127.0.0.1\"  # default\n"));
  EXPECT_TRUE(contains(ran.out, "\nlog_json = false  # default\n"));
  EXPECT_TRUE(contains(ran.out, "\ntrace_ratio = 0.01  # default\n"));
  EXPECT_TRUE(contains(ran.out, "\n# model is not set, and needed\n"));
  EXPECT_TRUE(contains(ran.out, "\n# deadline_ms is not set\n"));
}

TEST_F(Configuration, LaterSourcesWinFileEnvironmentSetFlag) {
  const std::string first = file("first.toml", "[serve]\nport = 1\nmax_batch = 1\n");
  const std::string second = file("second.toml",
                                  "serve.max_batch = 2\nserve.max_sessions = 2\n"
                                  "serve.max_connections = 2\nserve.log_json = true\n");
  const Ran ran =
      run({"--print-config", "--config", first, "--config", second, "--set",
           "serve.max_connections=4", "--set", "serve.max_events=4", "--max-events", "5"},
          {"CORTEX_MAX_SESSIONS=3", "CORTEX_MAX_CONNECTIONS=3"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_TRUE(contains(ran.out, "\nport = 1  # " + first + ":2\n")) << ran.out;
  EXPECT_TRUE(contains(ran.out, "\nmax_batch = 2  # " + second + ":1\n"));
  EXPECT_TRUE(contains(ran.out, "\nlog_json = true  # " + second + ":4\n"));
  EXPECT_TRUE(contains(ran.out, "\nmax_sessions = 3  # environment CORTEX_MAX_SESSIONS\n"));
  EXPECT_TRUE(contains(ran.out, "\nmax_connections = 4  # --set\n"));
  EXPECT_TRUE(contains(ran.out, "\nmax_events = 5  # flag\n"));
}

TEST_F(Configuration, ALogLevelIsKnownInAnyCase) {
  // What is wrong is found behind the level.
  const Ran ran = run({"--model", "identity", "--host", "192.0.2.1", "--log-level", "Warn"});
  EXPECT_EQ(ran.code, 2) << ran.err;
  EXPECT_TRUE(contains(ran.err, "192.0.2.1 is not a loopback address")) << ran.err;
  EXPECT_EQ(run({"--model", "identity", "--log-level", "loud"}).code, 2);
}

TEST_F(Configuration, TheVariablesOfThePublishedServiceAreKnown) {
  const Ran ran = run({"--print-config"},
                      {"CORTEX_CHECKPOINT=some.safetensors", "CORTEX_MAX_BATCH=32",
                       "CORTEX_DEADLINE_MS=30", "CORTEX_DEVICE=cpu", "CORTEX_WARMUP_ITERS=3",
                       "CORTEX_LOG_LEVEL=INFO", "CORTEX_OTEL_ENDPOINT=http://127.0.0.1:4318"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_TRUE(
      contains(ran.out, "\nmodel = [\"some.safetensors\"]  # environment CORTEX_CHECKPOINT\n"))
      << ran.out;
  EXPECT_TRUE(contains(ran.out, "\nmax_batch = 32  #"));
  EXPECT_TRUE(contains(ran.out, "\ndeadline_ms = 30  #"));
  EXPECT_TRUE(contains(ran.out, "\ndevice = \"cpu\"  #"));
  EXPECT_TRUE(contains(ran.out, "\nwarmup_iters = 3  #"));
  EXPECT_TRUE(contains(ran.out,
                       "\notlp = \"http://127.0.0.1:4318\"  # environment CORTEX_OTEL_ENDPOINT\n"));
}

TEST_F(Configuration, WhatIsPrintedIsReadBackAsTheSame) {
  const std::string strange = "a \"b\" \\ #c.safetensors";
  const Ran once = run({"--print-config", "--model", strange, "--model", "x=y", "--log-json",
                        "--max-rate", ".5", "--log-level", "WARN"});
  ASSERT_EQ(once.code, 0) << once.err;
  const Ran again = run({"--print-config", "--config", file("printed.toml", once.out)});
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(without_origins(again.out), without_origins(once.out));
  EXPECT_TRUE(contains(again.out, "max_rate = 0.5  #")) << again.out;
}

TEST_F(Configuration, AnUnknownKeyNamesTheNearestAndItsPlace) {
  const std::string path = file("rig.toml", "[serve]\nport = 8080\nmax_bach = 4\n");
  const Ran ran = run({"--print-config", "--config", path});
  EXPECT_EQ(ran.code, 2);
  EXPECT_TRUE(contains(ran.err, path + ":3: serve.max_bach is no setting of serve; the nearest is "
                                       "serve.max_batch"))
      << ran.err;
  const std::string bare = file("bare.toml", "prot = 1\n");
  EXPECT_TRUE(contains(run({"--config", bare}).err, bare + ":1: prot is no setting of serve; the "
                                                           "nearest is serve.port"));
  const Ran set = run({"--set", "serve.prot=1"});
  EXPECT_EQ(set.code, 2);
  EXPECT_TRUE(contains(set.err, "--set: serve.prot is no setting")) << set.err;
  EXPECT_TRUE(contains(run({"--set", "serve.port"}).err, "say KEY=VALUE"));
}

TEST_F(Configuration, AValueThatItsFlagDoesNotTakeNamesItsPlace) {
  const auto error = [&](const std::string& text) {
    const Ran ran = run({"--print-config", "--config", file("bad.toml", "[serve]\n" + text)});
    EXPECT_EQ(ran.code, 2) << text;
    return ran.err;
  };
  const std::string place = folder_.file("bad.toml") + ":2: ";
  EXPECT_TRUE(contains(error("port = 70000"), place)) << error("port = 70000");
  EXPECT_TRUE(contains(error("port = 70000"), "70000 not in range"));
  EXPECT_TRUE(contains(error("port = '80'"), place + "serve.port is a number, not a text"));
  EXPECT_TRUE(contains(error("port = [80]"), place + "serve.port is one value, not a list"));
  EXPECT_TRUE(contains(error("port = true"), place + "serve.port is not a truth value"));
  EXPECT_TRUE(contains(error("log_json = 1"), place + "serve.log_json is true or false"));
  EXPECT_TRUE(contains(error("policy = 'lifo'"), "lifo")) << error("policy = 'lifo'");
  EXPECT_TRUE(contains(error("port = 2026-01-01"), place)) << error("port = 2026-01-01");
  EXPECT_TRUE(contains(error("port = "), "bad.toml:2: ")) << error("port = ");
  EXPECT_TRUE(contains(run({"--config", "/no/such.toml"}).err, "/no/such.toml: no such file"));
  const Ran variable = run({"--print-config"}, {"CORTEX_PORT=seventy"});
  EXPECT_EQ(variable.code, 2);
  EXPECT_TRUE(contains(variable.err, "environment CORTEX_PORT")) << variable.err;
}

TEST_F(Configuration, SectionsOfTrainingArePassedOver) {
  const std::string path = file("lab.toml",
                                "[model]\npreset = 'stream-s'\n[data]\nnwb = ['a.nwb']\n"
                                "[training]\nlr = 1e-3\n[serve]\nport = 9\n");
  const Ran ran = run({"--print-config", "--config", path});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_TRUE(contains(ran.out, "\nport = 9  #")) << ran.out;
}

TEST_F(Configuration, ASlipInAVariableIsPointedOut) {
  const Ran ran = run({"--print-config"}, {"CORTEX_MAX_BACH=4", "CORTEX_SOMETHING_ELSE=1"});
  EXPECT_EQ(ran.code, 0);
  EXPECT_TRUE(contains(ran.err,
                       "CORTEX_MAX_BACH in the environment is no setting: is "
                       "CORTEX_MAX_BATCH meant?"))
      << ran.err;
  EXPECT_FALSE(contains(ran.err, "SOMETHING_ELSE")) << ran.err;
}

TEST_F(Configuration, HelpIsHelpWhateverTheEnvironmentHolds) {
  const Ran ran = run({"--help"}, {"CORTEX_PORT=seventy"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_TRUE(contains(ran.out, "--print-config"));
  // Other commands have no such settings.
  EXPECT_EQ(testing::run({"env", "CORTEX_PORT=seventy", CORTEX_BINARY, "--help"}).code, 0);
}

TEST_F(Configuration, WhatIsNeededMayComeFromAFile) {
  const std::string path = file("rig.toml", "[serve]\nmodel = ['/no/such.safetensors']\n");
  const Ran ran = run({"--config", path});
  EXPECT_EQ(ran.code, 2);
  EXPECT_TRUE(contains(ran.err, "no such file: /no/such.safetensors")) << ran.err;
}

TEST_F(Configuration, WarmUpForwardsRunBeforeTheModelIsReady) {
  testing::ServerProcess server({CORTEX_BINARY, "serve", "--model", "identity", "--port", "0",
                                 "--set", "serve.warmup_iters=7"});
  ASSERT_TRUE(server.line().starts_with("cortex: serving ")) << server.line();
  const auto page = http_get(server.url(), "/metrics");
  ASSERT_TRUE(page) << page.error().message;
  EXPECT_TRUE(contains(page->body, "\ncortex_steps_total{model=\"identity\",version=\"1\"} 7\n"))
      << page->body;
}

}  // namespace
}  // namespace cortex
