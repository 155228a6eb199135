package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// volumeSpec is the value of -v. Source is empty for an anonymous volume; Bind is what the API takes for the others.
type volumeSpec struct {
	Source, Target, Bind string
}

// parseVolume reads the value of -v:
//
//	/in/container                      anonymous volume
//	name:/in/container[:options]       named volume
//	/on/host:/in/container[:options]   bind mount
//	./relative:/in/container           bind mount from the working directory
func parseVolume(value string) (volumeSpec, error) {
	if value == "" {
		return volumeSpec{}, errors.New("invalid empty volume spec")
	}
	parts := strings.Split(value, ":")
	for _, p := range parts {
		if p == "" {
			return volumeSpec{}, fmt.Errorf("invalid spec: %s: empty section between colons", value)
		}
	}
	switch len(parts) {
	case 1:
		return volumeSpec{Target: value}, nil
	case 2, 3:
	default:
		return volumeSpec{}, fmt.Errorf("invalid spec: %s: too many colons", value)
	}
	v := volumeSpec{Source: parts[0], Target: parts[1]}
	if strings.HasPrefix(v.Source, ".") {
		abs, err := filepath.Abs(v.Source)
		if err != nil {
			return volumeSpec{}, err
		}
		v.Source = abs
	}
	parts[0] = v.Source
	v.Bind = strings.Join(parts, ":")
	return v, nil
}
