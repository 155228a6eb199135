package cli

import (
	"encoding/csv"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
)

// parseDevice reads the value of --device that is not the name of a CDI device: /on/host[:/in/container][:rwm].
func parseDevice(value string) (container.DeviceMapping, error) {
	d := container.DeviceMapping{CgroupPermissions: "rwm"}
	parts := strings.Split(value, ":")
	switch len(parts) {
	case 3:
		d.CgroupPermissions = parts[2]
		fallthrough
	case 2:
		if deviceMode(parts[1]) {
			d.CgroupPermissions = parts[1]
		} else {
			d.PathInContainer = parts[1]
		}
		fallthrough
	case 1:
		d.PathOnHost = parts[0]
	default:
		return d, fmt.Errorf("invalid device specification: %s", value)
	}
	if d.PathInContainer == "" {
		d.PathInContainer = d.PathOnHost
	}
	return d, nil
}

// validDevice checks the value of --device as it is given.
func validDevice(value string) (string, error) {
	if cdiName(value) {
		return value, nil
	}
	parts := strings.Split(value, ":")
	if len(parts) > 3 {
		return "", fmt.Errorf("bad format for path: %s", value)
	}
	container := parts[0]
	switch len(parts) {
	case 3:
		container = parts[1]
		if !deviceMode(parts[2]) {
			return "", fmt.Errorf("bad mode specified: %s", parts[2])
		}
	case 2:
		if !deviceMode(parts[1]) {
			container = parts[1]
		}
	}
	if !path.IsAbs(container) {
		return "", fmt.Errorf("%s is not an absolute path", container)
	}
	return value, nil
}

// deviceMode reports whether s is made of r, w and m, each at most once.
func deviceMode(s string) bool {
	if s == "" {
		return false
	}
	for i, c := range s {
		if !strings.ContainsRune("rwm", c) || strings.ContainsRune(s[i+1:], c) {
			return false
		}
	}
	return true
}

// cdiName reports whether s names a device of the Container Device Interface: vendor/class=device.
func cdiName(s string) bool {
	kind, device, ok := strings.Cut(s, "=")
	vendor, class, ok2 := strings.Cut(kind, "/")
	word := func(s, more string) bool {
		return s != "" && letterOrDigit(rune(s[0])) && letterOrDigit(rune(s[len(s)-1])) &&
			!strings.ContainsFunc(s, func(r rune) bool { return !letterOrDigit(r) && !strings.ContainsRune(more, r) })
	}
	return ok && ok2 && word(vendor, "_-.") && word(class, "_-") && word(device, "_-.:")
}

func letterOrDigit(r rune) bool {
	return '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}

// validDeviceRule checks the value of --device-cgroup-rule: "c 1:3 mr".
func validDeviceRule(value string) (string, error) {
	bad := fmt.Errorf("invalid device cgroup format '%s': write it as 'type major:minor mode', like 'c 1:3 rwm'", value)
	fields := strings.Split(value, " ")
	if len(fields) != 3 || !slices.Contains([]string{"a", "b", "c"}, fields[0]) || !deviceMode(fields[2]) {
		return "", bad
	}
	major, minor, ok := strings.Cut(fields[1], ":")
	for _, n := range []string{major, minor} {
		if n != "*" && (n == "" || strings.Trim(n, "0123456789") != "") {
			return "", bad
		}
	}
	if !ok {
		return "", bad
	}
	return value, nil
}

// parseWeight reads the value of --blkio-weight-device: /dev/sda:500.
func parseWeight(value string) (*blkiodev.WeightDevice, error) {
	dev, rest, ok := strings.Cut(value, ":")
	if !ok || dev == "" {
		return nil, fmt.Errorf("bad format: %s", value)
	}
	if !strings.HasPrefix(dev, "/dev/") {
		return nil, fmt.Errorf("bad format for device path: %s", value)
	}
	weight, err := strconv.ParseUint(rest, 10, 16)
	if err != nil || weight > 0 && (weight < 10 || weight > 1000) {
		return nil, fmt.Errorf("invalid weight for device: %s", value)
	}
	return &blkiodev.WeightDevice{Path: dev, Weight: uint16(weight)}, nil
}

// parseBps reads the value of --device-read-bps and --device-write-bps: /dev/sda:1mb.
func parseBps(value string) (*blkiodev.ThrottleDevice, error) {
	dev, rest, err := throttle(value)
	if err != nil {
		return nil, err
	}
	rate, err := units.RAMInBytes(rest)
	if err != nil || rate < 0 {
		return nil, fmt.Errorf("invalid rate for device: %s. The correct format is <device-path>:<number>[<unit>]. "+
			"Number must be a positive integer. Unit is optional and can be kb, mb, or gb", value)
	}
	return &blkiodev.ThrottleDevice{Path: dev, Rate: uint64(rate)}, nil
}

// parseIOps reads the value of --device-read-iops and --device-write-iops: /dev/sda:1000.
func parseIOps(value string) (*blkiodev.ThrottleDevice, error) {
	dev, rest, err := throttle(value)
	if err != nil {
		return nil, err
	}
	rate, err := strconv.ParseUint(rest, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("invalid rate for device: %s. The correct format is <device-path>:<number>. "+
			"Number must be a positive integer", value)
	}
	return &blkiodev.ThrottleDevice{Path: dev, Rate: rate}, nil
}

func throttle(value string) (dev, rest string, err error) {
	dev, rest, ok := strings.Cut(value, ":")
	if !ok || dev == "" {
		return "", "", fmt.Errorf("bad format: %s", value)
	}
	if !strings.HasPrefix(dev, "/dev/") {
		return "", "", fmt.Errorf("bad format for device path: %s", value)
	}
	return dev, rest, nil
}

// parseGPUs reads the value of --gpus: "all", a number, or fields separated by commas
//
//	count=2  device=0,GPU-3a23  driver=nvidia  capabilities=utility,compute  options=k=v
//
// in which a value with commas is quoted as in CSV.
func parseGPUs(value string) (container.DeviceRequest, error) {
	r := container.DeviceRequest{}
	fields, err := csv.NewReader(strings.NewReader(value)).Read()
	if err != nil {
		return r, err
	}
	seen := map[string]bool{}
	for _, field := range fields {
		key, val, has := strings.Cut(field, "=")
		if seen[key] {
			return r, fmt.Errorf("gpu request key '%s' can be specified only once", key)
		}
		seen[key] = true
		if !has {
			seen["count"] = true
			if r.Count, err = gpuCount(key); err != nil {
				return r, err
			}
			continue
		}
		switch key {
		case "driver":
			r.Driver = val
		case "count":
			if r.Count, err = gpuCount(val); err != nil {
				return r, err
			}
		case "device":
			r.DeviceIDs = strings.Split(val, ",")
		case "capabilities":
			r.Capabilities = [][]string{append(strings.Split(val, ","), "gpu")}
		case "options":
			options, err := csv.NewReader(strings.NewReader(val)).Read()
			if err != nil {
				return r, fmt.Errorf("failed to read gpu options: %w", err)
			}
			r.Options = keyValues(options)
		default:
			return r, fmt.Errorf("unexpected key '%s' in '%s'", key, field)
		}
	}
	if !seen["count"] && r.DeviceIDs == nil {
		r.Count = 1
	}
	if r.Options == nil {
		r.Options = map[string]string{}
	}
	if r.Capabilities == nil {
		r.Capabilities = [][]string{{"gpu"}}
	}
	return r, nil
}

func gpuCount(s string) (int, error) {
	if s == "all" {
		return -1, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		if ne := new(strconv.NumError); errors.As(err, &ne) {
			err = ne.Err
		}
		return 0, fmt.Errorf("invalid count (%s): value must be either \"all\" or an integer: %w", s, err)
	}
	return n, nil
}
