#include <fcntl.h>
#include <sys/file.h>

#include <filesystem>

#include "archive_server.h"

namespace cortex {
namespace {

using testing::ArchiveServer;
using testing::Download;
using testing::noise;
using testing::Request;
using testing::Wire;

bool is_blob(const Request& request) { return request.path.starts_with("/blobs/"); }
bool is_listing(const Request& request) {
  return request.path.find("/assets/?") != std::string::npos;
}

TEST_F(Download, ServerErrorsAreTriedAgain) {
  server.add("a.nwb", noise(35'000, 1));
  // Every path twice: the listing, the redirect and the blob.
  server.set_fault([](const Request& request, const Wire& wire) {
    if (request.number > 2) return false;
    wire.reply(request.number == 1 ? 500 : 503, "overloaded", "Retry-After: 0\r\n");
    return true;
  });
  options.jobs = 1;
  options.http.attempts = 5;
  ASSERT_EQ(dandi::download(options).value_or_throw().failed(), 0U);
  expect_whole("a.nwb");
}

TEST_F(Download, AServerThatOnlyFailsIsGivenUpAndNamed) {
  server.add("a.nwb", noise(5'000, 1));
  server.set_fault([](const Request& request, const Wire& wire) {
    if (!is_blob(request)) return false;
    wire.reply(500, "on fire");
    return true;
  });
  const std::string error = failure();
  EXPECT_NE(error.find("the server answered 500: on fire (attempt 4 of 4)"), std::string::npos)
      << error;
  EXPECT_NE(error.find("/assets/id-0/download/"), std::string::npos) << error;
  EXPECT_EQ(server.requests("/blobs/").size(), 4U);
}

TEST_F(Download, ARangeCutInTheMiddleComesAgainWhole) {
  server.add("a.nwb", noise(64'000, 1));
  std::atomic<int> cuts{0};
  const std::string& blob = server.blob("a.nwb");
  server.set_fault([&](const Request& request, const Wire& wire) {
    if (!is_blob(request) || request.first % 20'000 != 0 || ++cuts > 5) return false;
    wire.send(fmt::format("HTTP/1.1 206 X\r\nContent-Length: {}\r\n"
                          "Content-Range: bytes {}-{}/{}\r\n\r\n",
                          request.last - request.first + 1, request.first, request.last,
                          blob.size()) +
              blob.substr(request.first, 777));
    return true;
  });
  options.http.attempts = 10;
  std::uint64_t most = 0;
  options.on_progress = [&](const dandi::Progress& progress) {
    most = std::max(most, progress.bytes);
  };
  ASSERT_EQ(dandi::download(options).value_or_throw().failed(), 0U);
  EXPECT_GE(cuts, 5);
  EXPECT_EQ(most, 64'000U);
  expect_whole("a.nwb");
}

TEST_F(Download, AWrongContentLengthIsNamed) {
  server.add("a.nwb", noise(64'000, 1));
  for (const int error : {-1, 1}) {
    server.set_fault([&](const Request& request, const Wire& wire) {
      if (!is_blob(request)) return false;
      const auto count = static_cast<std::size_t>(request.last - request.first + 1);
      wire.reply(206, std::string(count + static_cast<std::size_t>(error), 'x'),
                 fmt::format("Content-Range: bytes {}-{}/64000\r\n", request.first, request.last));
      return true;
    });
    const std::string what = failure();
    EXPECT_NE(what.find(fmt::format("announces {} bytes instead of 10000", 10'000 + error)),
              std::string::npos)
        << what;
  }
}

TEST_F(Download, BytesBeyondTheRangeWithoutALengthAreRefused) {
  server.add("a.nwb", noise(64'000, 1));
  server.set_fault([&](const Request& request, const Wire& wire) {
    if (!is_blob(request)) return false;
    wire.send(fmt::format("HTTP/1.1 206 X\r\nContent-Range: bytes {}-{}/64000\r\n\r\n",
                          request.first, request.last) +
              std::string(50'000, 'x'));
    return true;
  });
  const std::string what = failure();
  EXPECT_NE(what.find("sends more than the 10000 bytes"), std::string::npos) << what;
}

TEST_F(Download, AnotherRangeThanAskedForIsRefused) {
  server.add("a.nwb", noise(64'000, 1));
  server.set_fault([&](const Request& request, const Wire& wire) {
    if (!is_blob(request)) return false;
    wire.reply(206, std::string(10'000, 'x'), "Content-Range: bytes 0-9999/99999\r\n");
    return true;
  });
  const std::string what = failure();
  EXPECT_NE(what.find("instead of 'bytes "), std::string::npos) << what;
}

TEST_F(Download, AServerThatIgnoresRangesSendsTheWholeFileOnce) {
  server.add("a.nwb", noise(64'000, 1));
  std::atomic<int> whole{0};
  server.set_fault([&](const Request& request, const Wire& wire) {
    if (!is_blob(request)) return false;
    whole += request.ranged ? 0 : 1;
    wire.reply(200, server.blob("a.nwb"));
    return true;
  });
  ASSERT_EQ(dandi::download(options).value_or_throw().failed(), 0U);
  EXPECT_EQ(whole, 1);
  expect_whole("a.nwb");
}

TEST_F(Download, ARedirectLoopEnds) {
  server.add("a.nwb", noise(64'000, 1));
  server.set_fault([&](const Request& request, const Wire& wire) {
    if (request.path.find("/download/") == std::string::npos) return false;
    wire.reply(302, "", fmt::format("Location: {}\r\n", request.path));
    return true;
  });
  options.jobs = 1;
  const std::string what = failure();
  EXPECT_NE(what.find("more than 10 redirects"), std::string::npos) << what;
  EXPECT_EQ(server.requests("/download/").size(), 11U);
}

TEST_F(Download, ARedirectToAnotherProtocolIsNotFollowed) {
  server.add("a.nwb", noise(10, 1));
  server.set_fault([&](const Request& request, const Wire& wire) {
    if (request.path.find("/download/") == std::string::npos) return false;
    wire.reply(302, "", "Location: file:///etc/passwd\r\n");
    return true;
  });
  const std::string what = failure();
  EXPECT_NE(what.find("rotocol"), std::string::npos) << what;
  EXPECT_FALSE(std::filesystem::exists(out("a.nwb")));
}

TEST_F(Download, GarbageInsteadOfJsonNamesThePage) {
  server.add("a.nwb", noise(10, 1));
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"<html>captive portal</html>", "/assets/?"},
      {"", "/assets/?"},
      {"[]", "not a JSON object"},
      {R"({"next":null})", "no list 'results'"},
      {R"({"next":7,"results":[]})", "'next' is not an address"},
      {R"({"next":"ftp://x/","results":[]})", "'next' is 'ftp://x/'"},
      {R"({"next":null,"results":[7]})", "result 0 is not an object"},
      {R"({"next":null,"results":[{"asset_id":"a","size":1}]})", "no text 'path'"},
      {R"({"next":null,"results":[{"asset_id":"../a","path":"x","size":1}]})", "no asset_id"},
      {R"({"next":null,"results":[{"asset_id":"a","path":"x","size":-1}]})", "usable 'size'"},
      {R"({"next":null,"results":[{"asset_id":"a","path":"x","size":1,"metadata":{"digest":)"
       R"({"dandi:sha2-256":"zz"}}}]})",
       "'dandi:sha2-256' is no digest"},
      {"{\"next\":null,\"results\":[{\"path\":\"\xff\"", "/assets/?"}};
  for (const auto& [body, expected] : bad) {
    server.set_fault([&, &reply = body](const Request& request, const Wire& wire) {
      if (!is_listing(request)) return false;
      wire.reply(200, reply);
      return true;
    });
    const auto result = dandi::download(options);
    ASSERT_FALSE(result) << body;
    EXPECT_EQ(result.error().code, ErrorCode::corrupt_data) << result.error().message;
    EXPECT_NE(result.error().message.find(expected), std::string::npos) << result.error().message;
  }
}

TEST_F(Download, AnUnknownDandisetIsNotFound) {
  server.set_fault([&](const Request&, const Wire& wire) {
    wire.reply(404, R"({"detail":"Not found."})");
    return true;
  });
  const auto result = dandi::download(options);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::not_found);
  EXPECT_EQ(server.requests("/").size(), 1U);
}

TEST_F(Download, AWrongDigestLeavesNoFile) {
  server.add("sha.nwb", noise(64'000, 1));
  server.add("etag.nwb", noise(64'000, 2));
  server.set_digests("sha.nwb", {std::string(64, 'a'), ""});
  server.set_digests("etag.nwb", {"", std::string(32, 'b') + "-1"});
  const auto report = dandi::download(options).value_or_throw();
  EXPECT_EQ(report.failed(), 2U);
  for (const auto& file : report.files) {
    EXPECT_NE(file.error.find("the archive says "), std::string::npos) << file.error;
    EXPECT_FALSE(std::filesystem::exists(file.path));
    EXPECT_FALSE(std::filesystem::exists(file.path + ".part"));
  }
}

TEST_F(Download, AFileWithoutADigestIsNotTaken) {
  server.add("a.nwb", noise(10, 1));
  server.set_digests("a.nwb", {});
  EXPECT_NE(failure().find("no digest"), std::string::npos);
}

TEST_F(Download, OneFileThatFailsDoesNotStopTheOthers) {
  server.add("a.nwb", noise(30'000, 1));
  server.add("b.nwb", noise(30'000, 2));
  server.add("c.nwb", noise(30'000, 3));
  server.set_fault([](const Request& request, const Wire& wire) {
    if (request.path.find("id-1") == std::string::npos) return false;
    wire.reply(403, "no");
    return true;
  });
  const auto report = dandi::download(options).value_or_throw();
  EXPECT_EQ(report.failed(), 1U);
  EXPECT_EQ(report.files[1].state, dandi::FileState::failed);
  expect_whole("a.nwb");
  expect_whole("c.nwb");
}

TEST_F(Download, APageThatNeverEndsIsGivenUp) {
  server.set_fault([&](const Request& request, const Wire& wire) {
    if (!is_listing(request)) return false;
    wire.send("HTTP/1.1 200 X\r\nConnection: close\r\n\r\n{\"results\":[");
    while (wire.send(std::string(10'000, ' '))) {
    }
    return true;
  });
  options.http.page_bytes = 1u << 20;
  const auto result = dandi::download(options);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::too_large) << result.error().message;
}

TEST_F(Download, APageThatTricklesForeverIsGivenUp) {
  server.set_fault([&](const Request& request, const Wire& wire) {
    if (!is_listing(request)) return false;
    wire.send("HTTP/1.1 200 X\r\nConnection: close\r\n\r\n{\"results\":[");
    while (wire.send(" ")) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return true;
  });
  options.http.page_timeout_s = 0.2;
  options.http.attempts = 2;
  const auto result = dandi::download(options);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::unavailable) << result.error().message;
}

TEST_F(Download, PagesWithoutEndOrInACircleAreFoundOut) {
  server.add("a.nwb", noise(10, 1));
  server.set_fault([&](const Request& request, const Wire& wire) {
    if (!is_listing(request)) return false;
    wire.reply(200, ArchiveServer::page_json({}, server.host() + request.path + "x"));
    return true;
  });
  auto result = dandi::download(options);
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message.find("no results"), std::string::npos);
  int page = 0;
  server.set_fault([&](const Request& request, const Wire& wire) {
    if (!is_listing(request)) return false;
    const std::string asset = fmt::format(R"({{"asset_id":"a","path":"{}","size":1}})", page++);
    wire.reply(200, ArchiveServer::page_json({asset}, server.host() + request.path));
    return true;
  });
  result = dandi::download(options);
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message.find("circle"), std::string::npos) << result.error().message;
  server.set_fault([&](const Request& request, const Wire& wire) {
    if (!is_listing(request)) return false;
    wire.reply(
        200, ArchiveServer::page_json({server.asset_json(0)}, server.host() + request.path + "x"));
    return true;
  });
  result = dandi::download(options);
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message.find("a second time"), std::string::npos)
      << result.error().message;
}

TEST_F(Download, PathsThatLeadOutOfTheFolderAreRefused) {
  std::filesystem::create_directories(options.out);
  std::filesystem::create_directory_symlink(folder.file(""), out("link"));
  for (const std::string path : {"../../x", "/etc/x", "a/../../x", "a/./x", "a//x", "a/", "..",
                                 "a\\\\..\\\\x", "a\\u0000x", "a\\nx", "link/x", ""}) {
    server.set_fault([&](const Request& request, const Wire& wire) {
      if (!is_listing(request)) return false;
      wire.reply(200, ArchiveServer::page_json(
                          {fmt::format(R"({{"asset_id":"a","path":"{}","size":1}})", path)}, ""));
      return true;
    });
    const auto result = dandi::download(options);
    ASSERT_FALSE(result) << path;
    EXPECT_EQ(result.error().code, ErrorCode::invalid_argument) << path;
    EXPECT_NE(result.error().message.find("refused"), std::string::npos) << result.error().message;
  }
  EXPECT_FALSE(std::filesystem::exists(folder.file("x")));
}

TEST_F(Download, ADiskThatIsTooSmallIsSaidBeforeAnythingIsFetched) {
  server.add("a.nwb", noise(40'000, 1));
  std::uint64_t free = (16u << 20) + 39'999;
  options.free_bytes = [&](const std::string&) { return free; };
  const auto result = dandi::download(options);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::resource_exhausted);
  EXPECT_TRUE(server.requests("/blobs/").empty());
  ++free;
  EXPECT_EQ(dandi::download(options).value_or_throw().failed(), 0U);
}

TEST_F(Download, AFileThatAnotherDownloadIsWritingIsLeftToIt) {
  server.add("a.nwb", noise(40'000, 1));
  std::filesystem::create_directories(options.out);
  const int other = ::open(out("a.nwb.part.state").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  ASSERT_EQ(::flock(other, LOCK_EX), 0);
  EXPECT_NE(failure().find("another download"), std::string::npos);
  ::close(other);
  EXPECT_EQ(dandi::download(options).value_or_throw().failed(), 0U);
  expect_whole("a.nwb");
}

TEST_F(Download, AStateOfOtherContentOrOfNonsenseStartsAnew) {
  server.add("a.nwb", noise(40'000, 1));
  std::filesystem::create_directories(options.out);
  for (const std::string state :
       {"cortex-part 1 40000 10000 other\n0\n1\n", "nonsense", "", "\n\n\n"}) {
    std::ofstream(out("a.nwb.part"), std::ios::binary) << std::string(40'000, 'z');
    std::ofstream(out("a.nwb.part.state"), std::ios::binary) << state;
    EXPECT_EQ(dandi::download(options).value_or_throw().failed(), 0U);
    expect_whole("a.nwb");
    std::filesystem::remove(out("a.nwb"));
  }
}

TEST_F(Download, AConnectionThatSendsNothingIsLeft) {
  server.add("a.nwb", noise(40'000, 1));
  server.set_fault([&](const Request& request, const Wire&) {
    if (!is_blob(request) || request.number != 1) return false;
    while (!released) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return true;
  });
  options.http.stall_timeout_s = 1;
  const auto report = dandi::download(options);
  released = true;
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(report->failed(), 0U);
  expect_whole("a.nwb");
}

}  // namespace
}  // namespace cortex
