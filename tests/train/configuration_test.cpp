// Settings of `cortex-train train` from presets, files, the environment, --set and flags.
#include <gtest/gtest.h>

#include <string>

#include "data/nwb.h"
#include "data/simulator.h"
#include "model/weights.h"
#include "support/settings.h"

namespace cortex {
namespace {

using testing::contains;
using testing::Ran;

class TrainConfiguration : public testing::Settings {
 protected:
  TrainConfiguration() : Settings({CORTEX_TRAIN_EXE, "train"}) {}
};

TEST_F(TrainConfiguration, PrintsEverySettingAndWhereItCameFrom) {
  const Ran ran = run({"--print-config"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_TRUE(ran.out.starts_with("[model]\npreset = \"stream-nano\"  # default\n")) << ran.out;
  EXPECT_TRUE(contains(ran.out, "\n[data]\n# nwb is not set, and needed\n")) << ran.out;
  EXPECT_TRUE(contains(ran.out, "\nprotocol = \"causal\"  # default\n"));
  EXPECT_TRUE(contains(ran.out, "\n[training]\n# out is not set, and needed\n"));
  EXPECT_TRUE(contains(ran.out, "\nunit_dropout = 0.6  # default\n"));
  EXPECT_TRUE(contains(ran.out, "\nbf16 = false  # default\n"));
}

TEST_F(TrainConfiguration, LaterSourcesWinDefaultPresetFileEnvironmentSetFlag) {
  // The name of each setting says which source is the last to give it.
  const std::string first = file("first.toml",
                                 "[model]\npreset = 'stream-xs'\n"
                                 "[training]\nclip = 1.5\nema = 0.1\nlr = 0.1\n");
  const std::string second = file("second.toml",
                                  "model.layers = 2\nmodel.heads = 2\nmodel.latents = 2\n"
                                  "model.value_buckets = 2\ntraining.ema = 0.2\n");
  const Ran ran = run({"--print-config", "--config", first, "--config", second, "--set",
                       "model.latents=4", "--set", "model.value_buckets=4", "--value-buckets", "5"},
                      {"CORTEX_HEADS=3", "CORTEX_LATENTS=3", "CORTEX_VALUE_BUCKETS=3"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  EXPECT_TRUE(contains(ran.out, "\nweight_decay = 0.3  # default\n")) << ran.out;
  EXPECT_TRUE(contains(ran.out, "\ndim = 256  # preset\n")) << ran.out;
  EXPECT_TRUE(contains(ran.out, "\nclip = 1.5  # " + first + ":4\n")) << ran.out;
  EXPECT_TRUE(contains(ran.out, "\nema = 0.2  # " + second + ":5\n")) << ran.out;
  EXPECT_TRUE(contains(ran.out, "\nlayers = 2  # " + second + ":1\n")) << ran.out;
  EXPECT_TRUE(contains(ran.out, "\nheads = 3  # environment CORTEX_HEADS\n")) << ran.out;
  EXPECT_TRUE(contains(ran.out, "\nlatents = 4  # --set\n")) << ran.out;
  EXPECT_TRUE(contains(ran.out, "\nvalue_buckets = 5  # flag\n")) << ran.out;
}

TEST_F(TrainConfiguration, ThePresetIsTheOneThatWasChosenLast) {
  const std::string path = file("rig.toml", "model.preset = 'stream-xs'\n");
  EXPECT_TRUE(contains(run({"--print-config", "--config", path}).out, "\ndim = 256  # preset\n"));
  const Ran window = run({"--print-config", "--config", path, "--preset", "cortex-m"});
  EXPECT_TRUE(contains(window.out, "preset = \"cortex-m\"  # flag\n")) << window.out;
  EXPECT_TRUE(contains(window.out, "\ndim = 768  # preset\n")) << window.out;
  EXPECT_TRUE(contains(window.out, "\n# window_steps is not set\n")) << "of streams alone";
}

TEST_F(TrainConfiguration, AnUnknownKeyNamesTheNearestAndItsPlace) {
  const auto error = [&](const std::string& text) {
    const Ran ran = run({"--print-config", "--config", file("rig.toml", text)});
    EXPECT_EQ(ran.code, 2) << text;
    return ran.err;
  };
  const std::string path = folder_.file("rig.toml");
  EXPECT_TRUE(contains(error("[training]\nlr = 1\nminuets = 5\n"),
                       path + ":3: training.minuets is no setting of train; the nearest is "
                              "training.minutes"))
      << error("[training]\nlr = 1\nminuets = 5\n");
  EXPECT_TRUE(contains(error("[model]\nlayer = 5\n"),
                       path + ":2: model.layer is no setting of train; the nearest is "
                              "model.layers"));
  EXPECT_TRUE(contains(error("nbw = 'a.nwb'\n"), path + ":1: nbw is no setting of train; the "
                                                        "nearest is data.nwb"));
  const Ran set = run({"--set", "training.itrations=5"});
  EXPECT_EQ(set.code, 2);
  EXPECT_TRUE(contains(set.err,
                       "--set: training.itrations is no setting of train; the nearest is "
                       "training.iterations"))
      << set.err;
  const Ran variable = run({"--print-config"}, {"CORTEX_MINUETS=5"});
  EXPECT_TRUE(contains(variable.err, "is CORTEX_MINUTES meant?")) << variable.err;
}

TEST_F(TrainConfiguration, WhatIsPrintedIsReadBackAsTheSameAndServesSectionIsPassedOver) {
  const Ran once = run({"--print-config", "--nwb", "a.nwb,b.nwb", "--lr", "1e-3", "--preset",
                        "stream-s", "--quiet"});
  ASSERT_EQ(once.code, 0) << once.err;
  EXPECT_TRUE(contains(once.out, "\nnwb = [\"a.nwb\", \"b.nwb\"]  # flag\n")) << once.out;
  const std::string path = file("printed.toml", once.out + "\n[serve]\nport = 9\n");
  const Ran again = run({"--print-config", "--config", path});
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(without_origins(again.out), without_origins(once.out));
}

TEST_F(TrainConfiguration, AModelIsTrainedByAFileAlone) {
  const std::string nwb = folder_.file("session.nwb");
  const auto recording = simulate({.units = 8, .minutes = 0.5}).value_or_throw();
  write_nwb(nwb, recording).value_or_throw();
  const std::string out = folder_.file("m.safetensors");
  const std::string path =
      file("rig.toml", "[model]\ndim = 16\nheads = 2\nlayers = 1\n[data]\nnwb = ['" + nwb +
                           "']\nbin_ms = 50\nstep_ms = 50\n[training]\nout = '" + out +
                           "'\niterations = 1\ndevice = 'cpu'\nquiet = true\n");
  const Ran ran = run({"--config", path, "--set", "model.layers=3"}, {"CORTEX_HEADS=4"});
  ASSERT_EQ(ran.code, 0) << ran.err;
  const ModelConfig config = load_model(out).value_or_throw().config;
  EXPECT_EQ(config.dim, 16);
  EXPECT_EQ(config.heads, 4);
  EXPECT_EQ(config.layers, 3);
  EXPECT_EQ(config.step_ms, 50);
  EXPECT_EQ(config.units.size(), 8U);
}

}  // namespace
}  // namespace cortex
