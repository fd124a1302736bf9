#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "data/nwb.h"
#include "support/paths.h"
#include "support/process.h"
#include "train/synthetic.h"

namespace cortex::train {
namespace {

ino_t inode(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? info.st_ino : 0;
}

int wait_for(pid_t child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

TEST(Resume, ARunKilledAgainAndAgainEndsWithTheSameBits) {
  const cortex::testing::TempDir dir;
  const std::string nwb = dir.file("session.nwb");
  const auto written = write_nwb(nwb, testing::synthetic_recording(8, 24, 4));
  ASSERT_TRUE(written) << written.error().message;
  const auto command = [&](const std::string& name) {
    return std::vector<std::string>{CORTEX_TRAIN_EXE,
                                    "train",
                                    "--nwb",
                                    nwb,
                                    "--out",
                                    dir.file(name),
                                    "--dim",
                                    "32",
                                    "--heads",
                                    "2",
                                    "--layers",
                                    "2",
                                    "--window-steps",
                                    "8",
                                    "--batch",
                                    "4",
                                    "--crop-steps",
                                    "24",
                                    "--iterations",
                                    "400",
                                    "--threads",
                                    "1",
                                    "--device",
                                    "cpu",
                                    "--eval-every",
                                    "40",
                                    "--quiet",
                                    "--resume",
                                    "--checkpoint-every",
                                    "5"};
  };
  ASSERT_EQ(wait_for(cortex::testing::start_program(command("whole"))), 0);

  const std::string checkpoint = dir.file("killed.run/checkpoint.safetensors");
  int killed = 0;
  for (int attempt = 0; attempt < 4; ++attempt) {
    const ino_t before = inode(checkpoint);
    const pid_t child = cortex::testing::start_program(command("killed"));
    // Dies once it has written at least one checkpoint of its own, wherever it then is.
    siginfo_t ended{};
    while (inode(checkpoint) == before && ended.si_pid == 0) {
      ::waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOHANG | WNOWAIT);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(7 * attempt));
    ::kill(child, SIGKILL);
    killed += WIFSIGNALED(wait_for(child));
  }
  EXPECT_GT(killed, 0);
  ASSERT_EQ(wait_for(cortex::testing::start_program(command("killed"))), 0);
  EXPECT_EQ(testing::bytes_of(dir.file("whole")), testing::bytes_of(dir.file("killed")));
  EXPECT_FALSE(testing::bytes_of(dir.file("killed")).empty());
  // Every scored iteration once, in order, whatever the interruptions.
  const std::string metrics = testing::bytes_of(dir.file("killed.run/metrics.jsonl"));
  std::size_t at = 0;
  for (int n = 40; n <= 400; n += 40) {
    at = metrics.find("{\"iteration\":" + std::to_string(n) + ",", at);
    ASSERT_NE(at, std::string::npos) << n;
  }
  EXPECT_EQ(std::count(metrics.begin(), metrics.end(), '\n'), 10);
}

TEST(CommandLine, ExitCodesTellUsageFromFailure) {
  const auto code = [](const std::vector<std::string>& more) {
    std::vector<std::string> all = {CORTEX_TRAIN_EXE};
    all.insert(all.end(), more.begin(), more.end());
    return WEXITSTATUS(wait_for(cortex::testing::start_program(all)));
  };
  EXPECT_EQ(code({"train", "--help"}), 0);
  EXPECT_EQ(code({"train", "--nwb", "x.nwb"}), 2);
  EXPECT_EQ(code({"train", "--nwb", "absent.nwb", "--out", "unused"}), 1);
  EXPECT_EQ(code({"evaluate", "--model", "absent", "--nwb", "absent.nwb"}), 1);
  EXPECT_EQ(code({"ridge", "--nwb", "x.nwb", "--lags", "many"}), 2);
}

}  // namespace
}  // namespace cortex::train
