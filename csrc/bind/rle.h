#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bind/bind.h"
#include "ops/rle.h"

// RLEs as Python has them: dicts of size and counts.
namespace visdeploy::bind {

// Raises what pycocotools does where it raises: TypeError for another kind of object, KeyError for a missing key.
Rle from_python(const py::handle& object);
std::vector<Rle> from_python(const py::list& objects);

// The same without reading the counts. The text of a compressed one is that of `counts`, which must outlive the view.
Encoded view(const py::handle& object, py::object& counts);

py::dict to_python(const std::string& counts, std::int64_t height, std::int64_t width);
py::list to_python(const std::vector<Rle>& rles, const std::vector<std::string>& strings);

// The counts of each, as COCO's strings. Needs no GIL.
std::vector<std::string> to_strings(const std::vector<Rle>& rles);

}  // namespace visdeploy::bind
