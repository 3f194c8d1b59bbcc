package sanity

// ours is the run that the specs of our own are part of.
var ours suite
