#include <simdjson.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>

#include "archive_server.h"
#include "support/process.h"

namespace cortex {
namespace {

using testing::Download;
using testing::noise;
using testing::Process;

TEST_F(Download, EveryAssetOfEveryPageArrivesWholeUnderItsPath) {
  for (int i = 0; i < 5; ++i)
    server.add(fmt::format("sub-A/ses-{}.nwb", i), noise(1000 + 25'000 * i, i));
  server.add("empty.txt", "");
  const auto report = dandi::download(options).value_or_throw();
  EXPECT_EQ(report.version, "0.1.2");
  ASSERT_EQ(report.files.size(), 6U);
  EXPECT_EQ(report.failed(), 0U);
  for (int i = 0; i < 5; ++i) expect_whole(fmt::format("sub-A/ses-{}.nwb", i));
  expect_whole("empty.txt");
  EXPECT_EQ(report.received_bytes, 5 * 1000U + 10 * 25'000U);
}

TEST_F(Download, RangesOfOneFileAreAskedForOnceEach) {
  server.add("a.nwb", noise(95'001, 1));
  ASSERT_EQ(dandi::download(options).value_or_throw().failed(), 0U);
  expect_whole("a.nwb");
  std::vector<std::uint64_t> firsts;
  for (const auto& request : server.requests("/blobs/")) firsts.push_back(request.first);
  std::sort(firsts.begin(), firsts.end());
  ASSERT_EQ(firsts.size(), 10U);
  for (std::size_t i = 0; i < 10; ++i) EXPECT_EQ(firsts[i], 10'000 * i);
}

TEST_F(Download, AVersionAndAGlobAreFollowed) {
  options.version = "draft";
  options.glob = "*train*";
  server.add("sub/x_train.nwb", noise(10, 1));
  server.add("sub/x_test.nwb", noise(10, 2));
  ASSERT_EQ(dandi::download(options).value_or_throw().files.size(), 1U);
  EXPECT_FALSE(server.requests("/versions/draft/").empty());
  EXPECT_FALSE(std::filesystem::exists(out("sub/x_test.nwb")));
  options.glob = "*none*";
  const auto none = dandi::download(options);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::not_found);
  EXPECT_NE(none.error().message.find("x_test.nwb"), std::string::npos);
}

TEST_F(Download, AFileThatIsThereIsLeftAloneAndAnotherInItsPlaceIsKept) {
  server.add("a.nwb", noise(30'000, 1));
  ASSERT_EQ(dandi::download(options).value_or_throw().failed(), 0U);
  const auto asked = server.requests("/blobs/").size();
  const auto again = dandi::download(options).value_or_throw();
  EXPECT_EQ(again.files[0].state, dandi::FileState::already_there);
  EXPECT_EQ(server.requests("/blobs/").size(), asked);
  std::ofstream(out("a.nwb")) << "mine";
  EXPECT_NE(failure().find("other content"), std::string::npos);
  EXPECT_EQ(testing::content_of(out("a.nwb")), "mine");
  options.overwrite = true;
  ASSERT_EQ(dandi::download(options).value_or_throw().failed(), 0U);
  expect_whole("a.nwb");
}

TEST_F(Download, EitherDigestAloneVerifies) {
  const std::string content = noise(12'345, 7);
  server.add("sha.nwb", content);
  server.add("etag.nwb", content);
  server.set_digests("sha.nwb", {testing::ArchiveServer::digest_of(content).sha256, ""});
  server.set_digests("etag.nwb", {"", testing::ArchiveServer::digest_of(content).dandi_etag});
  ASSERT_EQ(dandi::download(options).value_or_throw().failed(), 0U);
  expect_whole("sha.nwb");
  expect_whole("etag.nwb");
}

TEST(Digest, IsThatOfTheArchive) {
  // The values are Python's hashlib's, by dandischema's rule.
  const auto abc = testing::ArchiveServer::digest_of("abc");
  EXPECT_EQ(abc.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(abc.dandi_etag, "af5da9f45af7a300e3aded972f8ff687-1");
  EXPECT_EQ(testing::ArchiveServer::digest_of("").dandi_etag, "d41d8cd98f00b204e9800998ecf8427e-0");
  const testing::TempDir folder;
  std::ofstream(folder.file("zeros")) << "";
  std::filesystem::resize_file(folder.file("zeros"), 65u << 20);
  EXPECT_EQ(dandi::digest_file(folder.file("zeros"), {"", "x"}).value_or_throw().dandi_etag,
            "0bf9d855f3d1582460bb107769662ba7-2");
}

TEST(Digest, PartsAreOf64MiBUpToTenThousandOfThem) {
  const std::uint64_t part = 64u << 20;
  EXPECT_EQ(dandi::etag_part_bytes(1), part);
  EXPECT_EQ(dandi::etag_part_bytes(9'999 * part), part);
  EXPECT_EQ(dandi::etag_part_bytes(9'999 * part + 1), (9'999 * part + 1 + 9'999) / 10'000);
}

/// The program, killed while ranges are under way.
class DownloadProgram : public Download {
 protected:
  std::vector<std::string> command() const {
    return {CORTEX_BINARY, "download", "--dandiset", "000128", "--out",
            options.out,   "--api",    server.api(), "--jobs", "2",
            "--range-mib", "0.01",     "--attempts", "2",      "--json"};
  }
  static std::size_t lines(const std::string& path) {
    const std::string text = testing::content_of(path);
    return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
  }
};

TEST_F(DownloadProgram, KilledInTheMiddleItGoesOnWithTheRangesThatAreMissing) {
  server.add("a.nwb", noise(200'000, 3));
  server.set_fault([&](const testing::Request& request, const testing::Wire&) {
    if (request.path.starts_with("/blobs/") && request.first >= 100'000)
      while (!released) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return false;
  });
  const std::string state = out("a.nwb.part.state");
  {
    const Process first(command());
    // A line for the head, then one a range.
    for (int i = 0; i < 60'000 && lines(state) < 6; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    first.signal(SIGKILL);
  }
  released = true;
  server.set_fault({});
  const std::size_t whole = lines(state) - 1;
  ASSERT_GE(whole, 5U);
  // As if the process had died within its last line.
  std::ofstream(state, std::ios::app) << "1";
  const auto before = server.requests("/blobs/").size();
  const auto ran = testing::run(command());
  ASSERT_EQ(ran.code, 0) << ran.err;
  expect_whole("a.nwb");
  EXPECT_EQ(server.requests("/blobs/").size() - before, 20 - whole);
  simdjson::dom::parser parser;
  const auto json = parser.parse(ran.out);
  EXPECT_EQ(std::uint64_t(json["files"].at(0)["resumed_bytes"]), whole * 10'485);
}

TEST_F(DownloadProgram, AStateThatClaimsWhatIsNotThereIsFoundOut) {
  server.add("a.nwb", noise(50'000, 3));
  server.set_fault([&](const testing::Request& request, const testing::Wire& wire) {
    if (!request.path.starts_with("/blobs/") || request.first < 20'000) return false;
    wire.reply(403, "later");
    return true;
  });
  EXPECT_EQ(testing::run(command()).code, 1);
  server.set_fault({});
  {
    std::fstream part(out("a.nwb.part"), std::ios::in | std::ios::out | std::ios::binary);
    part.seekp(5);
    part << "damage";
  }
  const auto ran = testing::run(command());
  EXPECT_EQ(ran.code, 0) << ran.err;
  expect_whole("a.nwb");
}

TEST_F(DownloadProgram, ExitCodesAndErrorsAreThoseOfTheOtherCommands) {
  server.add("a.nwb", noise(5, 3));
  std::vector<std::string> usage = {CORTEX_BINARY, "download",   "--jobs",
                                    "0",           "--dandiset", "000128"};
  EXPECT_EQ(testing::run(usage).code, 2);
  EXPECT_EQ(testing::run({CORTEX_BINARY, "download"}).code, 2);
  const auto wrong = testing::run({CORTEX_BINARY, "download", "--dandiset", "128", "--out",
                                   options.out, "--api", server.api()});
  EXPECT_EQ(wrong.code, 1);
  EXPECT_EQ(wrong.err.rfind("cortex: dandiset '128'", 0), 0U) << wrong.err;
  const auto good = testing::run(command());
  EXPECT_EQ(good.code, 0) << good.err;
  // Progress goes to standard error, in lines where that is no terminal.
  EXPECT_EQ(good.out.find('\r'), std::string::npos);
  EXPECT_NE(good.err.find("a.nwb: downloaded"), std::string::npos) << good.err;
}

TEST_F(DownloadProgram, AWriteThatFailsEndsTheFileAndKeepsWhatIsWhole) {
  server.add("a.nwb", noise(200'000, 3));
  // A limit on the size of files stands for a disk that fills up.
  std::vector<std::string> limited = {"bash", "-c", "trap '' XFSZ; ulimit -f 64; exec \"$@\"", "_"};
  for (const std::string& word : command()) limited.push_back(word);
  const auto ran = testing::run(limited);
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.err.find("a.nwb.part"), std::string::npos) << ran.err;
  EXPECT_EQ(testing::run(command()).code, 0);
  expect_whole("a.nwb");
}

}  // namespace
}  // namespace cortex
