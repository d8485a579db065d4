"""Files of weights, and torchvision's names of weights: PyTorch, safetensors, Caffe, TensorFlow and NumPy."""
