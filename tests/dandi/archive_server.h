#pragma once

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "dandi/digest.h"
#include "dandi/download.h"
#include "support/paths.h"

/// A DANDI archive on loopback that can be told to misbehave.
namespace cortex::testing {

struct Request {
  std::string path;
  bool ranged = false;
  std::uint64_t first = 0, last = 0;
  int number = 0;  ///< of the requests for this path, from 1
};

/// The server's side of one connection; closed after one reply.
class Wire {
 public:
  explicit Wire(int fd) : fd_(fd) {}
  bool send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const auto n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }
  void reply(int status, const std::string& body, const std::string& headers = "") const {
    send(fmt::format("HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n{}\r\n", status,
                     body.size(), headers) +
         body);
  }

 private:
  int fd_;
};

class ArchiveServer {
 public:
  /// Whether it dealt with the request itself.
  using Fault = std::function<bool(const Request&, const Wire&)>;

  ArchiveServer() {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
        ::listen(listener_, 64) != 0)
      std::abort();
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { accept(); });
  }
  ~ArchiveServer() {
    ::shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    ::close(listener_);
    for (std::thread& each : serving_) each.join();
  }
  ArchiveServer(const ArchiveServer&) = delete;
  ArchiveServer& operator=(const ArchiveServer&) = delete;

  std::string host() const { return fmt::format("http://127.0.0.1:{}", port_); }
  std::string api() const { return host() + "/api"; }

  /// Before anything is asked.
  void add(const std::string& path, const std::string& content) {
    const std::lock_guard lock(mutex_);
    ids_.push_back(path);
    blobs_[path] = content;
    digests_[path] = digest_of(content);
  }
  void set_digests(const std::string& path, dandi::Digests digests) {
    const std::lock_guard lock(mutex_);
    digests_[path] = std::move(digests);
  }
  void set_fault(Fault fault) {
    const std::lock_guard lock(mutex_);
    fault_ = std::move(fault);
  }
  std::vector<Request> requests(const std::string& containing) const {
    const std::lock_guard lock(mutex_);
    std::vector<Request> found;
    for (const Request& request : requests_)
      if (request.path.find(containing) != std::string::npos) found.push_back(request);
    return found;
  }

  const std::string& blob(const std::string& path) const { return blobs_.at(path); }

  std::string asset_json(std::size_t i) const {
    const std::string& path = ids_[i];
    std::string digests;
    const dandi::Digests& d = digests_.at(path);
    if (!d.sha256.empty()) digests += fmt::format(R"("dandi:sha2-256":"{}")", d.sha256);
    if (!d.dandi_etag.empty())
      digests +=
          fmt::format(R"({}"dandi:dandi-etag":"{}")", digests.empty() ? "" : ",", d.dandi_etag);
    return fmt::format(
        R"({{"asset_id":"id-{}","blob":"b","zarr":null,"path":"{}","size":{},"metadata":{{"digest":{{{}}}}}}})",
        i, path, blobs_.at(path).size(), digests);
  }
  /// A page of the listing of `assets`, and where the next one is; empty: nowhere.
  static std::string page_json(const std::vector<std::string>& assets, const std::string& next) {
    std::string results;
    for (const std::string& asset : assets) results += (results.empty() ? "" : ",") + asset;
    return fmt::format(R"({{"count":{},"next":{},"previous":null,"results":[{}]}})", assets.size(),
                       next.empty() ? "null" : '"' + next + '"', results);
  }

  static dandi::Digests digest_of(const std::string& content) {
    const TempDir folder;
    const std::string path = folder.file("content");
    std::ofstream(path, std::ios::binary) << content;
    return dandi::digest_file(path, {"x", "x"}).value_or_throw();
  }

 private:
  void accept() {
    for (;;) {
      const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) return;
      serving_.emplace_back([this, fd] {
        serve(fd);
        ::shutdown(fd, SHUT_RDWR);
        ::close(fd);
      });
    }
  }

  void serve(int fd) {
    std::string head;
    char byte = 0;
    while (head.find("\r\n\r\n") == std::string::npos && head.size() < 65536)
      if (::recv(fd, &byte, 1, 0) == 1)
        head += byte;
      else
        return;
    Request request;
    request.path = head.substr(4, head.find(' ', 4) - 4);
    if (const auto at = head.find("Range: bytes="); at != std::string::npos) {
      request.ranged = true;
      char* end = nullptr;
      request.first = std::strtoull(head.c_str() + at + 13, &end, 10);
      request.last = std::strtoull(end + 1, nullptr, 10);
    }
    Fault fault;
    {
      const std::lock_guard lock(mutex_);
      request.number = ++counts_[request.path];
      requests_.push_back(request);
      fault = fault_;
    }
    const Wire wire(fd);
    if (!fault || !fault(request, wire)) answer(request, wire);
  }

  void answer(const Request& request, const Wire& wire) const {
    const std::string& path = request.path;
    if (path == "/api/dandisets/000128/")
      return wire.reply(
          200, R"({"identifier":"000128","most_recent_published_version":{"version":"0.1.2"}})");
    if (path.find("/versions/") != std::string::npos) {
      // Two assets a page, so that there are pages.
      const auto at = path.find("page=", path.find("page_size") + 9);
      const std::size_t page =
          at == std::string::npos ? 1 : std::strtoull(path.c_str() + at + 5, nullptr, 10);
      std::vector<std::string> assets;
      for (std::size_t i = 2 * (page - 1); i < std::min(2 * page, ids_.size()); ++i)
        assets.push_back(asset_json(i));
      const std::string base = path.substr(0, path.find("&page="));
      return wire.reply(200,
                        page_json(assets, 2 * page < ids_.size()
                                              ? fmt::format("{}{}&page={}", host(), base, page + 1)
                                              : ""));
    }
    const auto number = path.find("id-");
    if (number == std::string::npos) return wire.reply(404, R"({"detail":"Not found."})");
    const std::string id = path.substr(number, path.find('/', number) - number);
    if (path.find("/download/") != std::string::npos)
      return wire.reply(302, "",
                        fmt::format("Location: {}/blobs/{}?signed=yes\r\n", host(), id + "/"));
    const std::string& blob = blobs_.at(ids_[std::strtoull(id.c_str() + 3, nullptr, 10)]);
    if (!request.ranged) return wire.reply(200, blob);
    wire.reply(
        206, blob.substr(request.first, request.last - request.first + 1),
        fmt::format("Content-Range: bytes {}-{}/{}\r\n", request.first, request.last, blob.size()));
  }

  int listener_ = -1;
  int port_ = 0;
  std::vector<std::string> ids_;
  std::map<std::string, std::string> blobs_;
  std::map<std::string, dandi::Digests> digests_;
  mutable std::mutex mutex_;
  Fault fault_;
  std::map<std::string, int> counts_;
  std::vector<Request> requests_;
  std::vector<std::thread> serving_;
  std::thread acceptor_;
};

/// Bytes without a pattern that a misplaced range could hide in.
inline std::string noise(std::size_t size, std::uint32_t seed) {
  std::string text(size, '\0');
  for (char& c : text) {
    seed = seed * 1664525u + 1013904223u;
    c = static_cast<char>(seed >> 24);
  }
  return text;
}

inline std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class Download : public ::testing::Test {
 protected:
  Download() {
    ::setenv("no_proxy", "127.0.0.1", 1);
    options.api = server.api();
    options.dandiset = "000128";
    options.out = folder.file("out");
    options.jobs = 3;
    options.range_bytes = 10'000;
    options.http.backoff_s = 0.001;
    options.http.attempts = 4;
    options.http.stall_timeout_s = 20;
  }

  std::string out(const std::string& name) const { return folder.file("out/" + name); }

  void expect_whole(const std::string& path) const {
    EXPECT_TRUE(content_of(out(path)) == server.blob(path)) << path;
    EXPECT_FALSE(std::filesystem::exists(out(path + ".part")));
    EXPECT_FALSE(std::filesystem::exists(out(path + ".part.state")));
  }
  /// The error of the one file that fails.
  std::string failure() {
    const auto report = dandi::download(options);
    if (!report) return "download: " + report.error().message;
    return report->failed() == 1 ? report->files.at(0).error : "no failure";
  }

  TempDir folder;
  std::atomic<bool> released{false};  ///< for faults that hold a request back
  ArchiveServer server;
  dandi::DownloadOptions options;
};

}  // namespace cortex::testing
