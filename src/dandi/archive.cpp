#include "dandi/archive.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <cctype>
#include <set>
#include <string_view>
#include <utility>

namespace cortex::dandi {
namespace {

using simdjson::dom::element;

constexpr std::size_t kMaxAssets = 1'000'000;
constexpr std::size_t kMaxPages = 100'000;
constexpr std::uint64_t kMaxBytes = std::uint64_t{5} << 40;  // the largest object of S3

bool all_of(std::string_view text, int (*is)(int)) {
  return std::all_of(text.begin(), text.end(),
                     [&](char c) { return is(static_cast<unsigned char>(c)) != 0; });
}

Result<void> check_names(const std::string& dandiset, const std::string& version) {
  const auto bad = [](const char* field, const std::string& what) {
    return Error{ErrorCode::invalid_argument, what, field};
  };
  if (dandiset.size() != 6 || !all_of(dandiset, std::isdigit))
    return bad("dandiset", fmt::format("dandiset '{}' is not six digits", dandiset));
  if (version.empty() || version == "draft") return {};
  const bool looks = version.size() <= 32 && std::count(version.begin(), version.end(), '.') == 2 &&
                     version.front() != '.' && version.back() != '.' &&
                     version.find_first_not_of("0123456789.") == std::string::npos;
  if (!looks)
    return bad("version",
               fmt::format("version '{}' is neither 'draft' nor like 0.220113.0400", version));
  return {};
}

/// One reply of the API, with errors that name its URL.
class Page {
 public:
  static Result<Page> get(HttpSession& http, const std::string& url) {
    auto text = http.get_text(url);
    if (!text) return text.error();
    Page page(url, *std::move(text));
    const auto failure = page.parser_->parse(page.text_).get(page.root_);
    if (failure != simdjson::SUCCESS) return page.corrupt(simdjson::error_message(failure));
    if (!page.root_.is_object()) return page.corrupt("not a JSON object");
    return page;
  }

  element root() const { return root_; }

  Error corrupt(const std::string& what) const {
    return {ErrorCode::corrupt_data, fmt::format("{}: {}", url_, what), "url"};
  }

  Result<std::string> text(element object, const char* name, const std::string& place) const {
    std::string_view value;
    if (object[name].get(value) != simdjson::SUCCESS)
      return corrupt(fmt::format("{} has no text '{}'", place, name));
    return std::string(value);
  }

 private:
  Page(std::string url, std::string text)
      : url_(std::move(url)),
        text_(std::move(text)),
        parser_(std::make_unique<simdjson::dom::parser>()) {}

  std::string url_;
  std::string text_;
  std::unique_ptr<simdjson::dom::parser> parser_;  // owns what root_ looks at
  element root_;
};

Result<std::string> latest_version(HttpSession& http, const std::string& api,
                                   const std::string& dandiset) {
  const auto page = Page::get(http, fmt::format("{}/dandisets/{}/", api, dandiset));
  if (!page) return page.error();
  element published;
  if (page->root()["most_recent_published_version"].get(published) != simdjson::SUCCESS)
    return page->corrupt("has no 'most_recent_published_version'");
  if (published.is_null()) return std::string("draft");
  if (!published.is_object())
    return page->corrupt("'most_recent_published_version' is not an object");
  auto version = page->text(published, "version", "'most_recent_published_version'");
  if (!version) return version.error();
  if (auto ok = check_names(dandiset, *version); !ok || version->empty())
    return page->corrupt(fmt::format("names a version '{}'", *version));
  return version;
}

bool is_hex(std::string_view text, std::size_t size) {
  return text.size() == size && all_of(text, std::isxdigit);
}

Result<std::string> digest(const Page& page, element digests, const char* name,
                           const std::string& place) {
  std::string_view value;
  const auto failure = digests[name].get(value);
  if (failure == simdjson::NO_SUCH_FIELD) return std::string();
  const bool etag = std::string_view(name) == "dandi:dandi-etag";
  const std::size_t dash = std::min(value.find('-'), value.size());
  const bool fits =
      failure == simdjson::SUCCESS &&
      (etag ? is_hex(value.substr(0, dash), 32) && value.size() - dash >= 2 &&
                  value.size() - dash <= 6 && all_of(value.substr(dash + 1), std::isdigit)
            : is_hex(value, 64));
  if (!fits) return page.corrupt(fmt::format("{}: '{}' is no digest", place, name));
  std::string text(value);
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

Result<Asset> read_asset(const Page& page, element entry, std::size_t number,
                         const std::string& api) {
  std::string place = fmt::format("result {}", number);
  if (!entry.is_object()) return page.corrupt(place + " is not an object");
  Asset asset;
  auto path = page.text(entry, "path", place);
  if (!path) return path.error();
  asset.path = *std::move(path);
  place += fmt::format(" ('{}')", asset.path.substr(0, 200));
  auto id = page.text(entry, "asset_id", place);
  if (!id) return id.error();
  const auto in_id = [](int c) { return static_cast<int>(std::isalnum(c) || c == '-'); };
  if (id->empty() || id->size() > 64 || !all_of(*id, in_id))
    return page.corrupt(fmt::format("{}: '{}' is no asset_id", place, id->substr(0, 64)));
  asset.id = *std::move(id);
  asset.url = fmt::format("{}/assets/{}/download/", api, asset.id);
  if (entry["size"].get(asset.bytes) != simdjson::SUCCESS || asset.bytes > kMaxBytes)
    return page.corrupt(place + " has no usable 'size'");
  element zarr;
  asset.zarr = entry["zarr"].get(zarr) == simdjson::SUCCESS && !zarr.is_null();
  element digests;
  if (entry["metadata"]["digest"].get(digests) == simdjson::SUCCESS && digests.is_object()) {
    auto sha = digest(page, digests, "dandi:sha2-256", place);
    if (!sha) return sha.error();
    asset.digests.sha256 = *std::move(sha);
    auto etag = digest(page, digests, "dandi:dandi-etag", place);
    // What a Zarr store has under that name is made otherwise, and is never checked here.
    if (!etag && !asset.zarr) return etag.error();
    if (etag) asset.digests.dandi_etag = *std::move(etag);
  }
  return asset;
}

}  // namespace

Result<Listing> list_assets(HttpSession& http, const std::string& api, const std::string& dandiset,
                            const std::string& version) {
  if (auto ok = check_names(dandiset, version); !ok) return ok.error();
  std::string base = api;
  while (base.ends_with('/')) base.pop_back();
  Listing listing{dandiset, version, {}};
  if (version.empty()) {
    auto latest = latest_version(http, base, dandiset);
    if (!latest) return latest.error();
    listing.version = *std::move(latest);
  }
  std::string url =
      fmt::format("{}/dandisets/{}/versions/{}/assets/?page_size=100&metadata=true&order=path",
                  base, dandiset, listing.version);
  std::set<std::string> visited, paths;
  while (!url.empty()) {
    const auto page = Page::get(http, url);
    if (!page) return page.error();
    visited.insert(url);
    simdjson::dom::array results;
    if (page->root()["results"].get(results) != simdjson::SUCCESS)
      return page->corrupt("has no list 'results'");
    for (const element entry : results) {
      auto asset = read_asset(*page, entry, listing.assets.size(), base);
      if (!asset) return asset.error();
      if (!paths.insert(asset->path).second)
        return page->corrupt(fmt::format("lists '{}' a second time", asset->path.substr(0, 200)));
      listing.assets.push_back(*std::move(asset));
      if (listing.assets.size() > kMaxAssets)
        return page->corrupt(fmt::format("lists more than {} assets", kMaxAssets));
    }
    element next;
    url.clear();
    if (page->root()["next"].get(next) != simdjson::SUCCESS || next.is_null()) continue;
    std::string_view address;
    if (next.get(address) != simdjson::SUCCESS) return page->corrupt("'next' is not an address");
    url = address;
    const bool is_http =
        url.starts_with("https://") || (base.starts_with("http://") && url.starts_with("http://"));
    if (!is_http || url.size() > 4096)
      return page->corrupt(fmt::format("'next' is '{}'", url.substr(0, 200)));
    if (results.size() == 0) return page->corrupt("has no results, but a page to follow");
    if (visited.contains(url) || visited.size() >= kMaxPages)
      return page->corrupt(fmt::format("the pages go round in a circle at '{}'", url));
  }
  std::sort(listing.assets.begin(), listing.assets.end(),
            [](const Asset& a, const Asset& b) { return a.path < b.path; });
  return listing;
}

}  // namespace cortex::dandi
