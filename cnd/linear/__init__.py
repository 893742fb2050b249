"""Linear regression of many targets on many predictors, and the folds that its penalty is chosen on."""
