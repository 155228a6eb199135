package dockerapi

import (
	"testing"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/berth-engine/berth/internal/monitor"
)

// The monitor writes the frame and clients read it; neither knows the other.
func TestExitFrameIsTheMonitors(t *testing.T) {
	if berthapi.ExitFrame != monitor.ExitFrame {
		t.Errorf("clients look for frame %d, monitors write frame %d", berthapi.ExitFrame, monitor.ExitFrame)
	}
}
