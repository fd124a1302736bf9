// /openapi.json and /docs against the routes that there are.
#include <gtest/gtest.h>
#include <simdjson.h>

#include <set>
#include <string>
#include <utility>

#include "serve/router.h"
#include "serve/test_server.h"

namespace cortex::testing {
namespace {

namespace dom = simdjson::dom;

using Routes = std::set<std::pair<std::string, std::string>>;

class ApiDocument : public ::testing::Test {
 protected:
  ApiDocument() : text_(server_.get("/openapi.json").body) {
    EXPECT_EQ(parser_.parse(text_).get(root_), simdjson::SUCCESS) << text_;
  }

  Routes documented() {
    Routes routes;
    for (const auto& [path, operations] : root_["paths"].get_object())
      for (const auto& [method, operation] : operations.get_object()) {
        std::string name(method);
        for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
        routes.emplace(path, name);
      }
    return routes;
  }

  TestServer server_;
  std::string text_;
  dom::parser parser_;
  dom::element root_;
};

std::string filled(std::string path, const std::string& placeholder, const std::string& value) {
  const auto at = path.find(placeholder);
  return at == std::string::npos ? path : path.replace(at, placeholder.size(), value);
}

TEST_F(ApiDocument, HoldsEveryRouteAndNoOther) {
  Routes there;
  for (const RouteName& route : all_routes()) there.emplace(route.path, route.method);
  EXPECT_GT(there.size(), 15U);
  EXPECT_EQ(documented(), there);
}

TEST_F(ApiDocument, EveryRouteInItIsAnswered) {
  for (const auto& [path, method] : documented()) {
    const std::string at = filled(filled(path, "{model}", "fake"), "{version}", "1");
    const auto answer =
        method == "GET" ? http_get(server_.url(), at) : http_post(server_.url(), at, "{}");
    ASSERT_TRUE(answer) << at;
    EXPECT_FALSE(contains(answer->body, "no such route")) << at;
    EXPECT_NE(answer->status, 405) << at;
  }
}

TEST_F(ApiDocument, EverySchemaThatItNamesIsInIt) {
  const std::string mark = "#/components/schemas/";
  int named = 0;
  for (auto at = text_.find(mark); at != std::string::npos; at = text_.find(mark, at + 1)) {
    const auto begin = at + mark.size();
    const std::string name = text_.substr(begin, text_.find('"', begin) - begin);
    EXPECT_EQ(root_["components"]["schemas"][name].error(), simdjson::SUCCESS) << name;
    ++named;
  }
  EXPECT_GT(named, 20);
}

TEST_F(ApiDocument, WhatARequestNeedsIsWhatTheServerAsksFor) {
  const auto schemas = root_["components"]["schemas"];
  const std::string fields[][2] = {
      {"request_id", "\"r1\""}, {"session_id", "\"s1\""}, {"events", "[]"}};
  std::set<std::string> required;
  for (const dom::element name : schemas["DecodeRequest"]["required"].get_array())
    required.emplace(std::string_view(name));
  for (const auto& missing : fields) {
    std::string body;
    for (const auto& field : fields)
      if (field[0] != missing[0])
        body += (body.empty() ? "\"" : ",\"") + field[0] + "\":" + field[1];
    EXPECT_EQ(server_.decode("{" + body + "}").status, required.contains(missing[0]) ? 400 : 200)
        << missing[0];
  }
}

TEST_F(ApiDocument, ThePageForPeopleListsTheSame) {
  const std::string page = server_.get("/docs").body;
  for (const RouteName& route : all_routes())
    EXPECT_TRUE(contains(page, "<code>" + std::string(route.path) + "</code>")) << route.path;
}

}  // namespace
}  // namespace cortex::testing
