package container

import (
	"math/rand/v2"
	"strconv"
)

// freeName makes up a name nobody has: a quality and a thing of the waterside. Called with c.mu held.
func (c *Containers) freeName() string {
	for try := 0; ; try++ {
		name := qualities[rand.IntN(len(qualities))] + "_" + things[rand.IntN(len(things))]
		if try > 3 {
			name += strconv.Itoa(rand.IntN(10 * try))
		}
		if _, taken := c.names[name]; !taken {
			return name
		}
	}
}

var qualities = [...]string{
	"able", "agile", "amber", "ample", "apt", "ardent", "awake", "balanced", "bold", "brave", "breezy", "bright",
	"brisk", "buoyant", "calm", "candid", "careful", "cheerful", "clear", "clever", "cobalt", "cool", "coral", "cosy",
	"crisp", "curious", "daring", "deep", "deft", "eager", "early", "earnest", "easy", "even", "fair", "faithful",
	"fast", "fine", "firm", "fleet", "fond", "frank", "free", "fresh", "gentle", "glad", "golden", "grand", "green",
	"handy", "happy", "hardy", "hearty", "honest", "humble", "jolly", "jovial", "keen", "kind", "lively", "loyal",
	"lucid", "lucky", "mellow", "merry", "mild", "misty", "neat", "nimble", "noble", "patient", "placid", "plain",
	"plucky", "polite", "proud", "quick", "quiet", "rapid", "ready", "robust", "rosy", "royal", "sandy", "serene",
	"sharp", "silver", "sleek", "smart", "smooth", "snug", "sober", "solid", "sound", "spry", "stable", "steady",
	"still", "stout", "sunny", "sure", "swift", "tidal", "tidy", "trim", "true", "upright", "vivid", "warm", "wary",
	"windy", "wise", "witty", "young", "zesty",
}

var things = [...]string{
	"albatross", "anchor", "auk", "barge", "bay", "beacon", "bollard", "bosun", "bow", "breakwater", "brig", "buoy",
	"cabin", "canal", "canoe", "cape", "capstan", "captain", "cargo", "catamaran", "channel", "clipper", "coast",
	"cockle", "compass", "coot", "cormorant", "cove", "crab", "crane", "crest", "crew", "current", "cutter", "deck",
	"delta", "derrick", "dinghy", "dock", "dolphin", "dory", "eddy", "eider", "estuary", "fathom", "ferry", "fjord",
	"fleet", "foam", "frigate", "galley", "gannet", "gull", "gully", "halyard", "harbour", "haven", "heron", "hull",
	"inlet", "island", "jetty", "junk", "kayak", "keel", "ketch", "lagoon", "lantern", "launch", "lighthouse",
	"lobster", "lock", "longboat", "lugger", "mariner", "marlin", "mast", "mole", "mooring", "narrows", "oar", "otter",
	"oyster", "paddle", "pelican", "petrel", "pier", "pilot", "piper", "plover", "port", "prow", "puffin", "quay",
	"raft", "reef", "rigger", "rudder", "sail", "schooner", "seal", "sextant", "shoal", "shore", "skiff", "skipper",
	"sloop", "sound", "spinnaker", "squid", "starboard", "stern", "strait", "tanker", "tern", "tide", "tiller",
	"topsail", "trawler", "tugboat", "walrus", "wave", "whaler", "wharf", "wherry", "winch", "yacht", "yawl",
}
