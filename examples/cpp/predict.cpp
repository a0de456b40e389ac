// Prints what a model finds in images, one JSON object a line:
//
//   predict MODEL.ts IMAGE...
//
// The model is a file of `visdeploy export --format torchscript`, whose method `predict` does everything. What it
// restores is written beside the image, as IMAGE.restored.ppm.
#include <torch/script.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "image.h"

namespace {

// So many digits that they read back to the same float.
std::string exact(float value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", static_cast<double>(value));
  return text;
}

using Labels = c10::List<c10::IValue>;

void print_label(const Image& image, const Labels& labels, std::int64_t index) {
  std::cout << "{\"image\": " << std::quoted(image.path)
            << ", \"label\": " << std::quoted(labels.get(static_cast<std::size_t>(index)).toStringRef());
}

void print_boxes(const c10::IValue& answer, const Labels& labels, const Image& image) {
  const auto& parts = answer.toTupleRef().elements();
  const at::Tensor boxes = parts[0].toTensor(), scores = parts[1].toTensor(), indices = parts[2].toTensor();
  for (std::int64_t i = 0; i < boxes.size(0); ++i) {
    print_label(image, labels, indices[i].item<std::int64_t>());
    std::cout << ", \"score\": " << exact(scores[i].item<float>());
    for (int side = 0; side < 4; ++side) {
      std::cout << (side ? ", " : ", \"box\": [") << exact(boxes[i][side].item<float>());
    }
    std::cout << "]}\n";
  }
}

void print_masks(const c10::IValue& answer, const Labels& labels, const Image& image) {
  const auto& parts = answer.toTupleRef().elements();
  const at::Tensor indices = parts[0].toTensor(), bytes = parts[1].toTensor(), offsets = parts[2].toTensor();
  const std::string_view text(static_cast<const char*>(bytes.const_data_ptr()),
                              static_cast<std::size_t>(bytes.numel()));
  for (std::int64_t i = 0; i < indices.size(0); ++i) {
    const auto first = offsets[i].item<std::int64_t>(), last = offsets[i + 1].item<std::int64_t>();
    const auto counts = text.substr(static_cast<std::size_t>(first), static_cast<std::size_t>(last - first));
    print_label(image, labels, indices[i].item<std::int64_t>());
    std::cout << ", \"size\": [" << image.height << ", " << image.width << "], \"counts\": " << std::quoted(counts)
              << "}\n";
  }
}

void print_probabilities(const c10::IValue& answer, const Labels& labels, const Image& image) {
  const at::Tensor probabilities = answer.toTensor();
  for (std::int64_t i = 0; i < probabilities.numel(); ++i) {
    print_label(image, labels, i);
    std::cout << ", \"score\": " << exact(probabilities[i].item<float>()) << "}\n";
  }
}

void write_picture(const c10::IValue& answer, const Labels&, const Image& image) {
  const at::Tensor picture = answer.toTensor();
  const std::string path = image.path + ".restored.ppm";
  std::ofstream file(path, std::ios::binary);
  file << "P6\n" << picture.size(1) << " " << picture.size(0) << "\n255\n";
  file.write(static_cast<const char*>(picture.const_data_ptr()), picture.numel());
  file.close();
  if (!file) throw std::runtime_error(path + ": cannot be written");
  std::cout << "{\"image\": " << std::quoted(image.path) << ", \"restored\": " << std::quoted(path) << "}\n";
}

// The one line of an error of torch that says what is wrong, without the stack around it.
std::string sentence(const std::exception& error) {
  const auto* own = dynamic_cast<const c10::Error*>(&error);
  std::string text = own ? own->what_without_backtrace() : error.what();
  const auto raised = text.rfind("RuntimeError: ");
  if (raised != std::string::npos) text = text.substr(raised + std::string_view("RuntimeError: ").size());
  const auto first = text.find_first_not_of('\n');
  return first == std::string::npos ? text : text.substr(first, text.find('\n', first) - first);
}

torch::jit::Module load(const std::string& path) {
  if (!std::ifstream(path)) throw std::runtime_error(path + ": cannot be opened");
  torch::jit::Module model;
  try {
    model = torch::jit::load(path, torch::kCPU);
  } catch (const std::exception& error) {
    throw std::runtime_error(path + ": torch cannot load it: " + sentence(error));
  }
  if (!model.find_method("predict")) {
    throw std::runtime_error(path + ": has no method predict; make it with `visdeploy export --format torchscript`");
  }
  return model;
}

void predict(torch::jit::Module& model, const std::string& path) {
  Image image = read_image(path);
  const at::Tensor pixels = torch::from_blob(image.rgb.data(), {image.height, image.width, 3}, torch::kUInt8);
  const c10::IValue answer = model.get_method("predict")({pixels});
  const Labels labels = model.attr("labels").toList();
  const std::string task = model.attr("task").toStringRef();
  const auto print = task == "segmentation"     ? print_masks
                     : task == "classification" ? print_probabilities
                     : task == "restoration"    ? write_picture
                                                : print_boxes;
  print(answer, labels, image);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: predict MODEL.ts IMAGE...\n";
    return 2;
  }
  int failed = 0;
  try {
    torch::jit::Module model = load(argv[1]);
    const c10::InferenceMode no_gradients;
    for (int i = 2; i < argc; ++i) {
      try {
        predict(model, argv[i]);
      } catch (const std::exception& error) {  // which must not cost the other images
        std::cerr << "error: " << sentence(error) << "\n";
        failed = 1;
      }
    }
  } catch (const std::exception& error) {
    std::cerr << "error: " << sentence(error) << "\n";
    failed = 1;
  }
  return failed;
}
