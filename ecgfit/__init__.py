"""ecgfit: train, evaluate and apply a 1D-CNN on a store that ecgprep built."""
