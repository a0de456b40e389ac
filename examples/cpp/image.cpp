#include "image.h"

#include <cctype>
#include <fstream>
#include <stdexcept>

#ifdef WITH_OPENCV
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#endif

namespace {

constexpr std::int64_t kLongestSide = 1 << 16;

// A number of the header; comments, from # to the end of a line, may stand before it.
std::int64_t number(std::istream& in) {
  while ((in >> std::ws) && in.peek() == '#') in.ignore(1 << 20, '\n');
  std::int64_t value = -1;
  in >> value;
  return in ? value : -1;
}

Image read_ppm(std::istream& in, const std::string& path) {
  Image image{path};
  image.width = number(in);
  image.height = number(in);
  if (image.width < 1 || image.height < 1 || image.width > kLongestSide || image.height > kLongestSide ||
      number(in) != 255 || !std::isspace(in.get())) {
    throw std::runtime_error(path + ": expected a PPM of 8 bits with sides up to 65536");
  }
  const auto first = in.tellg();
  in.seekg(0, std::ios::end);
  const std::int64_t bytes = 3 * image.width * image.height, there = in.tellg() - first;
  if (there < bytes) {
    throw std::runtime_error(path + ": is cut short: expected " + std::to_string(bytes) + " bytes of pixels, got " +
                             std::to_string(there));
  }
  in.seekg(first);
  image.rgb.resize(static_cast<std::size_t>(bytes));
  in.read(reinterpret_cast<char*>(image.rgb.data()), bytes);
  return image;
}

}  // namespace

Image read_image(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error(path + ": cannot be opened");
  if (in.get() == 'P' && in.get() == '6') return read_ppm(in, path);
#ifdef WITH_OPENCV
  const cv::Mat bgr = cv::imread(path, cv::IMREAD_COLOR);
  if (bgr.empty()) throw std::runtime_error(path + ": is no image that OpenCV reads");
  cv::Mat rgb;
  cv::cvtColor(bgr, rgb, cv::COLOR_BGR2RGB);
  return {path, rgb.rows, rgb.cols, {rgb.datastart, rgb.dataend}};
#else
  throw std::runtime_error(path + ": expected a PPM (P6); this program was built without OpenCV, which reads others");
#endif
}
