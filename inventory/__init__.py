"""What is to be where: site files, their models, and the images and services known by name."""
