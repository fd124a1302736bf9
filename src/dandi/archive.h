#pragma once

#include <cortex/result.h>

#include <cstdint>
#include <string>
#include <vector>

#include "dandi/digest.h"
#include "dandi/http.h"

/// The REST API of a DANDI archive (https://api.dandiarchive.org/swagger/).
namespace cortex::dandi {

struct Asset {
  std::string id;
  std::string path;  ///< as the archive has it: not yet fit for a file system
  std::uint64_t bytes = 0;
  Digests digests;
  bool zarr = false;  ///< a folder of many objects, not one file
  std::string url;    ///< answers with a redirect to the bytes
};

struct Listing {
  std::string dandiset;
  std::string version;
  std::vector<Asset> assets;  ///< by path
};

/// All assets of a version; empty: the latest published one, or the draft where none is. Errors as
/// HttpSession has them; invalid_argument for an identifier or a version that is none; corrupt_data
/// for replies that are not what the API promises, naming the URL: not JSON, a field missing or of
/// another type, a digest that is no hex, pages that repeat or never end, two assets of one path.
Result<Listing> list_assets(HttpSession& http, const std::string& api, const std::string& dandiset,
                            const std::string& version);

}  // namespace cortex::dandi
