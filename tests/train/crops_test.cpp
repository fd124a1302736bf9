#include "train/crops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "train/setup.h"
#include "train/synthetic.h"

namespace cortex::train {
namespace {

constexpr std::int64_t kLength = 20;
constexpr std::int64_t kWarmup = 8;

Timeline training() {
  std::vector<Recording> recordings = {testing::synthetic_recording(5, 16, 1),
                                       testing::synthetic_recording(5, 9, 2)};
  return *make_timeline(recordings, step_options({}), "train", OtherTrials::blank);
}

TEST(Crops, NeverScoreWarmupUnobservedOrOtherTrials) {
  const Recording recording = testing::synthetic_recording(5, 16, 1);
  const Timeline timeline =
      *make_timeline({recording}, step_options({}), "train", OtherTrials::blank);
  const SteppedRecording stepped = *step_recording(recording, step_options({}));
  const CropSampler sampler = *CropSampler::create(timeline, kLength, kWarmup);
  std::int64_t scored = 0;
  for (std::uint64_t n = 0; n < 50; ++n) {
    const auto crops = sampler.draw(1, n, 8);
    const CropBatch batch = pack_crops(timeline, crops, kLength, kWarmup, {0.2, 0.2}, 1, n);
    for (std::int64_t row = 0; row < batch.rows(); ++row) {
      if (!batch.mask[row]) continue;
      ++scored;
      const std::int64_t i = row % kLength;
      const std::int64_t s = crops[row / kLength].start + i;
      ASSERT_GE(i, kWarmup);
      ASSERT_TRUE(stepped.observed[s]);
      ASSERT_GE(stepped.trial[s], 0);
      ASSERT_EQ(recording.trials[stepped.trial[s]].split, "train");
      for (std::size_t d = 0; d < 2; ++d)
        ASSERT_EQ(batch.target[row * 2 + d], stepped.target[s * 2 + d]);
    }
    EXPECT_EQ(batch.scored, std::count(batch.mask.begin(), batch.mask.end(), 1));
  }
  // Weighted sampling: every crop scores something.
  EXPECT_GT(scored, 50 * 8 * 2);
}

TEST(Crops, SpikesOfOtherTrialsAreNeverSeen) {
  const Timeline blank = training();
  const Recording recording = testing::synthetic_recording(5, 16, 1);
  const SteppedRecording stepped = *step_recording(recording, step_options({}));
  const TimelinePart& part = blank.parts.front();
  std::int64_t kept = 0;
  for (std::int64_t s = 0; s < part.steps(); ++s) {
    const std::int64_t n = part.indptr[s + 1] - part.indptr[s];
    const auto there = static_cast<std::int64_t>(stepped.step_events(s).size());
    const bool other = stepped.trial[s] >= 0 && recording.trials[stepped.trial[s]].split != "train";
    if (stepped.trial[s] >= 0) {
      ASSERT_EQ(n, other ? 0 : there) << "step " << s;
    }
    kept += n;
  }
  EXPECT_GT(kept, 0);
  EXPECT_LT(kept, static_cast<std::int64_t>(stepped.events.size()));
}

TEST(Crops, AreAFunctionOfSeedAndIteration) {
  const Timeline timeline = training();
  const CropSampler sampler = *CropSampler::create(timeline, kLength, kWarmup);
  const auto pack = [&](std::uint64_t seed, std::uint64_t n) {
    return pack_crops(timeline, sampler.draw(seed, n, 4), kLength, kWarmup, {0.3, 0.3}, seed, n);
  };
  EXPECT_EQ(pack(1, 17).events, pack(1, 17).events);
  EXPECT_NE(pack(1, 17).events, pack(1, 18).events);
  EXPECT_NE(pack(1, 17).events, pack(2, 17).events);
}

TEST(Crops, DropoutSilencesWholeUnitsAndThinningSpikes) {
  const Timeline timeline = training();
  const CropSampler sampler = *CropSampler::create(timeline, kLength, kWarmup);
  const auto crops = sampler.draw(1, 1, 64);
  const auto count = [&](const Augmentation& a) {
    double n = 0;
    for (const Event& e : pack_crops(timeline, crops, kLength, kWarmup, a, 1, 1).events) {
      EXPECT_GE(e.value, 1);
      n += e.value;
    }
    return n;
  };
  const double all = count({});
  EXPECT_NEAR(count({0.4, 0}) / all, 0.8, 0.1);
  EXPECT_NEAR(count({0, 0.4}) / all, 0.8, 0.1);
}

TEST(Crops, AFreshStartIsScoredFromItsFirstStep) {
  const Timeline timeline = training();
  const CropSampler sampler = *CropSampler::create(timeline, kLength, kWarmup);
  const auto crops = sampler.draw(1, 1, 400);
  const auto fresh = [&](double chance) {
    const CropBatch batch =
        pack_crops(timeline, crops, kLength, kWarmup, {.fresh_starts = chance}, 1, 1);
    EXPECT_EQ(batch.scored, std::count(batch.mask.begin(), batch.mask.end(), 1));
    int count = 0;
    for (std::size_t crop = 0; crop < crops.size(); ++crop) {
      const TimelinePart& part = timeline.parts[crops[crop].part];
      const auto* mask = batch.mask.data() + crop * kLength;
      const bool any = std::any_of(mask, mask + kWarmup, [](auto m) { return m != 0; });
      count += any;
      // Where one is scored, all are that may be.
      for (std::int64_t i = 0; any && i < kWarmup; ++i)
        EXPECT_EQ(mask[i], part.mask[crops[crop].start + i]);
    }
    return count;
  };
  EXPECT_EQ(fresh(0), 0);
  // Some crops begin outside every trial.
  const int all = fresh(0.999999);
  EXPECT_GT(all, 200);
  EXPECT_NEAR(fresh(0.5), all / 2.0, all / 8.0);
}

TEST(Crops, BothRecordingsAreDrawnFrom) {
  const Timeline timeline = training();
  const CropSampler sampler = *CropSampler::create(timeline, kLength, kWarmup);
  std::vector<int> drawn(2, 0);
  for (const Crop& crop : sampler.draw(1, 1, 400)) {
    ++drawn[crop.part];
    EXPECT_LE(crop.start + kLength, timeline.parts[crop.part].steps());
  }
  EXPECT_GT(drawn[0], drawn[1]);
  EXPECT_GT(drawn[1], 50);
}

TEST(Timeline, ResetsCutTrialsApart) {
  const Timeline whole = *make_timeline({testing::synthetic_recording(5, 8, 1)}, step_options({}),
                                        "val", OtherTrials::keep);
  const Timeline cut = cut_at_trials(whole);
  EXPECT_EQ(cut.parts.size(), 2u);
  EXPECT_EQ(cut.scored(), whole.scored());
  for (const TimelinePart& part : cut.parts)
    for (std::int64_t s = 0; s < part.steps(); ++s)
      for (std::int64_t e = part.indptr[s]; e < part.indptr[s + 1]; ++e)
        EXPECT_EQ(part.events[e].bin, s);
}

}  // namespace
}  // namespace cortex::train
