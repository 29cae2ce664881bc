"""From a folder of clips to a dataset to train on.

    footage    frames of clips and pictures: upright, in square pixels, at a steady rate, filling their canvas
    shot_detection   what is to be seen in a video, frame by frame, and where its shots begin
    scan       every file of a folder: what it is, its shots, or why it is of no use
    captions   what is said of a file: in a table, or beside it
    beside     captions in files of their own, under whatever names and in whatever encodings
    shards     samples in tar files, and where each of them lies
    kept       what is there from earlier runs, as far as it is whole
    build      the folder -> shards, so that a kill costs one of them and a second run nothing
    dataset    samples at random, for training
    summary    what is in a dataset, in numbers and as a picture
"""
