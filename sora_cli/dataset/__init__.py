"""From a folder of clips to a dataset to train on."""
