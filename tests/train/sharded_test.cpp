// Training on several ranks, processes that meet on the loopback: over Gloo on the CPU and, where
// there are two GPUs and NCCL, on those.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <thread>

#include "data/nwb.h"
#include "model/weights.h"
#include "support/paths.h"
#include "support/process.h"
#include "tensor/safetensors.h"
#include "train/synthetic.h"

namespace cortex::train {
namespace {

using cortex::testing::TempDir;
using testing::bytes_of;

int free_port() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  socklen_t size = sizeof address;
  EXPECT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  ::close(fd);
  return ntohs(address.sin_port);
}

int exit_code(pid_t child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#ifdef CORTEX_WITH_GLOO
constexpr bool kGloo = true;
#else
constexpr bool kGloo = false;
#endif
#ifdef CORTEX_WITH_NCCL
constexpr bool kNccl = true;
#else
constexpr bool kNccl = false;
#endif

/// As the driver's own tool counts them; 0 without one.
int gpus() {
  std::stringstream lines(cortex::testing::run({"nvidia-smi", "-L"}).out);
  int count = 0;
  for (std::string line; std::getline(lines, line);) count += line.rfind("GPU ", 0) == 0;
  return count;
}

class Ranks : public ::testing::Test {
 protected:
  explicit Ranks(std::string device) : device_(std::move(device)) {}
  void SetUp() override {
    nwb_ = dir_.file("session.nwb");
    ASSERT_TRUE(write_nwb(nwb_, testing::synthetic_recording(7, 8, 4)));
  }

  std::vector<pid_t> launch(int ranks, const std::string& name, int iterations,
                            const std::vector<std::string>& more) {
    std::vector<std::string> command = {CORTEX_TRAIN_EXE, "train"};
    const auto flag = [&](const char* key, const std::string& value) {
      command.insert(command.end(), {key, value});
    };
    flag("--nwb", nwb_);
    flag("--out", dir_.file(name));
    flag("--dim", "12");
    flag("--heads", "2");
    flag("--layers", "2");
    flag("--window-steps", "5");
    flag("--crop-steps", "16");
    flag("--batch", "4");
    flag("--iterations", std::to_string(iterations));
    flag("--warmup-iterations", "5");
    flag("--eval-every", "5");
    flag("--checkpoint-every", "5");
    flag("--threads", "1");
    flag("--device", device_);
    command.push_back("--quiet");
    command.insert(command.end(), more.begin(), more.end());
    if (ranks == 1) return {cortex::testing::start_program(command, {})};
    const std::string port = "MASTER_PORT=" + std::to_string(free_port());
    const std::string size = "WORLD_SIZE=" + std::to_string(ranks);
    std::vector<pid_t> out;
    for (int rank = 0; rank < ranks; ++rank)
      out.push_back(cortex::testing::start_program(
          command, {"RANK=" + std::to_string(rank), size, "MASTER_ADDR=127.0.0.1", port}));
    return out;
  }

  void run(int ranks, const std::string& name, int iterations,
           const std::vector<std::string>& more) {
    for (const pid_t child : launch(ranks, name, iterations, more)) ASSERT_EQ(exit_code(child), 0);
  }

  std::string run_dir(const std::string& name) { return dir_.file(name) + ".run"; }

  std::vector<double> losses(const std::string& name) {
    std::stringstream lines(bytes_of(run_dir(name) + "/metrics.jsonl"));
    std::vector<double> out;
    const std::string key = "\"loss\":";
    for (std::string line; std::getline(lines, line);)
      out.push_back(std::strtod(line.c_str() + line.find(key) + key.size(), nullptr));
    return out;
  }

  /// Of every fifth update.
  void expect_same_losses(const std::string& a, const std::string& b, std::size_t count,
                          double within) {
    const auto x = losses(a);
    const auto y = losses(b);
    ASSERT_EQ(x.size(), count);
    ASSERT_EQ(y.size(), count);
    for (std::size_t i = 0; i < count; ++i) ASSERT_NEAR(x[i], y[i], within) << i;
    EXPECT_NE(x.front(), x.back());
  }

  /// What ranks learn in 200 updates in float64 is what one process learns.
  void expect_one_process_of(const std::vector<int>& ranks, std::vector<std::string> flags) {
    flags.emplace_back("--float64");
    run(1, "one", 200, flags);
    for (const int count : ranks) {
      const std::string name = "of" + std::to_string(count);
      run(count, name, 200, flags);
      expect_same_losses("one", name, 40, 1e-9);
      const ModelFile a = load_model(dir_.file("one")).value_or_throw();
      const ModelFile b = load_model(dir_.file(name)).value_or_throw();
      for (const auto& [key, tensor] : a.tensors)
        for (std::size_t i = 0; i < tensor.f32().size(); ++i)
          ASSERT_NEAR(tensor.f32()[i], b.at(key).f32()[i], 1e-6) << key;
    }
  }

  /// Waits until a checkpoint is there that was not when `before` was read, or a rank has ended.
  void wait_for_checkpoint(const std::string& name, const std::string& before, pid_t rank) {
    while (bytes_of(run_dir(name) + "/checkpoint.latest") == before) {
      siginfo_t ended{};
      ::waitid(P_PID, static_cast<id_t>(rank), &ended, WEXITED | WNOHANG | WNOWAIT);
      if (ended.si_pid != 0) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }

  const TempDir dir_;
  const std::string device_;
  std::string nwb_;
};

const std::vector<std::string> kWindow = {"--preset",      "cortex-xs", "--latents",      "4",
                                          "--window-bins", "8",         "--receptive-ms", "0"};

class Sharded : public Ranks {
 protected:
  Sharded() : Ranks("cpu") {}
  void SetUp() override {
    if (!kGloo) GTEST_SKIP() << "this build has no Gloo";
    Ranks::SetUp();
  }
};

class ShardedOnGpus : public Ranks {
 protected:
  ShardedOnGpus() : Ranks("cuda") {}
  void SetUp() override {
    if (!kNccl) GTEST_SKIP() << "this build has no NCCL";
    if (const int seen = gpus(); seen < 2) GTEST_SKIP() << "needs 2 GPUs, " << seen << " are here";
    Ranks::SetUp();
  }
};

TEST_F(Sharded, RanksLearnWhatOneProcessDoesInDoublePrecision) {
  expect_one_process_of({2, 4}, {});
}

TEST_F(Sharded, RanksLearnTheWindowDecoderThatOneProcessDoes) {
  expect_one_process_of({2}, kWindow);
}

TEST_F(Sharded, InSinglePrecisionAndInPartsToo) {
  run(1, "one", 20, {});
  run(2, "two", 20, {});
  expect_same_losses("one", "two", 4, 1e-5);
  run(2, "parts", 20, {"--accumulate", "2"});
  expect_same_losses("one", "parts", 4, 1e-5);
}

TEST_F(Sharded, EachRankHoldsItsPart) {
  run(1, "one", 10, {});
  run(4, "four", 10, {});
  const auto whole = read_safetensors(run_dir("one") + "/checkpoint.safetensors");
  ASSERT_TRUE(whole) << whole.error().message;
  for (int rank = 0; rank < 4; ++rank) {
    const auto part = read_safetensors(run_dir("four") + "/checkpoint-10/" + std::to_string(rank) +
                                       "-of-4.safetensors");
    ASSERT_TRUE(part) << part.error().message;
    for (const char* name : {"parameters", "first", "second", "average"}) {
      const auto all = whole->tensors.at(name).count();
      // Stages are padded to divide: at most 3 values each.
      EXPECT_LE(part->tensors.at(name).count(), all / 4 + 4) << name;
      EXPECT_GE(part->tensors.at(name).count(), all / 4) << name;
    }
  }
}

TEST_F(Sharded, ACheckpointGoesOnWithAnotherNumberOfRanks) {
  run(1, "whole", 40, {});
  run(2, "moved", 40, {"--stop-after", "15"});
  run(4, "moved", 40, {"--stop-after", "15", "--resume"});
  run(1, "moved", 40, {"--resume"});
  expect_same_losses("whole", "moved", 8, 1e-4);
  EXPECT_TRUE(std::filesystem::exists(dir_.file("moved")));
}

TEST_F(Sharded, ARankThatDiesEndsTheJobWhichThenGoesOn) {
  run(2, "whole", 200, {});
  for (int attempt = 0; attempt < 3; ++attempt) {
    const auto children = launch(2, "killed", 200, {"--resume"});
    const std::string before = bytes_of(run_dir("killed") + "/checkpoint.latest");
    // One or the other dies once this attempt has come a little further.
    wait_for_checkpoint("killed", before, children[0]);
    std::this_thread::sleep_for(std::chrono::milliseconds(5 * attempt));
    ::kill(children[static_cast<std::size_t>(attempt % 2)], SIGKILL);
    EXPECT_EQ(exit_code(children[static_cast<std::size_t>(attempt % 2)]), 128 + SIGKILL);
    EXPECT_EQ(exit_code(children[static_cast<std::size_t>(1 - attempt % 2)]), 1);
  }
  run(2, "killed", 200, {"--resume"});
  expect_same_losses("whole", "killed", 40, 1e-6);
}

TEST_F(Sharded, AnIncompleteEnvironmentIsAnError) {
  const std::vector<std::string> command = {CORTEX_TRAIN_EXE, "train",           "--nwb",    nwb_,
                                            "--out",          dir_.file("none"), "--device", "cpu"};
  EXPECT_EQ(exit_code(cortex::testing::start_program(command, {"WORLD_SIZE=2"})), 2);
  EXPECT_EQ(exit_code(cortex::testing::start_program(
                command, {"WORLD_SIZE=2", "RANK=2", "MASTER_ADDR=127.0.0.1", "MASTER_PORT=29555"})),
            2);
  EXPECT_EQ(exit_code(cortex::testing::start_program(command, {"WORLD_SIZE=two"})), 2);
}

TEST_F(ShardedOnGpus, RanksLearnWhatOneProcessDoesInDoublePrecision) {
  expect_one_process_of({2}, {});
}

TEST_F(ShardedOnGpus, RanksLearnTheWindowDecoderThatOneProcessDoes) {
  expect_one_process_of({2}, kWindow);
}

TEST_F(ShardedOnGpus, InSinglePrecisionAndInPartsToo) {
  run(1, "one", 20, {});
  run(2, "two", 20, {});
  expect_same_losses("one", "two", 4, 1e-5 * losses("one").front());
  run(2, "parts", 20, {"--accumulate", "2"});
  expect_same_losses("one", "parts", 4, 1e-5 * losses("one").front());
}

TEST_F(ShardedOnGpus, ACheckpointGoesOnWithAnotherNumberOfRanks) {
  run(1, "whole", 40, {});
  run(2, "moved", 40, {"--stop-after", "15"});
  run(1, "moved", 40, {"--resume"});
  expect_same_losses("whole", "moved", 8, 1e-4);
}

TEST_F(ShardedOnGpus, ARankThatDiesEndsTheOther) {
  for (const std::size_t dies : {0, 1}) {
    const std::string name = "killed" + std::to_string(dies);
    const auto children = launch(2, name, 1000000, {});
    wait_for_checkpoint(name, "", children[0]);
    ::kill(children[dies], SIGKILL);
    EXPECT_EQ(exit_code(children[dies]), 128 + SIGKILL);
    EXPECT_EQ(exit_code(children[1 - dies]), 1);
  }
}

}  // namespace
}  // namespace cortex::train
