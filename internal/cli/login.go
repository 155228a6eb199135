package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/berth-engine/berth/internal/tty"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func newLogin(a *app) *cobra.Command {
	var user, password string
	var fromStdin bool
	var cmd *cobra.Command
	cmd = command("login [OPTIONS] [SERVER]", "Authenticate to a registry", maxArgs(1),
		func(ctx context.Context, args []string) error {
			server := hubServer
			if len(args) == 1 && args[0] != "docker.io" && args[0] != "index.docker.io" {
				server = args[0]
				if !strings.Contains(server, "/v1") {
					server = registryHost(server)
				}
			}
			f := cmd.Flags()
			switch {
			case fromStdin && f.Changed("password"):
				return errors.New("conflicting options: cannot specify both --password and --password-stdin")
			case fromStdin && user == "":
				return errors.New("the --password-stdin option requires --username to be set")
			case f.Changed("username") && user == "":
				return errors.New("username is empty")
			case f.Changed("password"):
				a.warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
			}
			return a.login(ctx, server, user, password, fromStdin)
		})
	cmd.Long = "Authenticate to a registry.\nDocker Hub when no server is named."
	f := cmd.Flags()
	f.StringVarP(&user, "username", "u", "", "User name")
	f.StringVarP(&password, "password", "p", "", "Password or personal access token")
	f.BoolVar(&fromStdin, "password-stdin", false, "Read the password from STDIN")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func (a *app) login(ctx context.Context, server, user, password string, fromStdin bool) error {
	config, err := a.configFile()
	if err != nil {
		return err
	}
	auth := registry.AuthConfig{Username: user, Password: password}
	known, err := config.credentials(server)
	if err != nil {
		return err
	}
	switch {
	case fromStdin:
		data, err := io.ReadAll(io.LimitReader(a.In, 1<<20))
		if err != nil {
			return err
		}
		auth.Password = strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	case user == "" && password == "" && known.Username != "":
		fmt.Fprintf(a.Out, "Authenticating with existing credentials... [Username: %s]\n", known.Username)
		auth = known
	default:
		if err := a.askCredentials(&auth, known.Username); err != nil {
			return err
		}
	}
	auth.ServerAddress = server
	api, err := a.client()
	if err != nil {
		return err
	}
	result, err := api.RegistryLogin(ctx, client.RegistryLoginOptions{Username: auth.Username, Password: auth.Password,
		ServerAddress: server, IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken})
	if err != nil {
		return err
	}
	if result.Auth.IdentityToken != "" {
		auth.Password, auth.IdentityToken = "", result.Auth.IdentityToken
	}
	if config.helper(server) == "" {
		a.warn("\nWARNING! Your credentials are stored unencrypted in '%s'.\nConfigure a credential helper (credsStore) to "+
			"remove this warning.\n", config.path)
	}
	if err := config.store(server, auth); err != nil {
		return fmt.Errorf("saving the credentials: %w", err)
	}
	if result.Auth.Status != "" {
		fmt.Fprintln(a.Out, result.Auth.Status)
	}
	return nil
}

// askCredentials asks for what is missing.
func (a *app) askCredentials(auth *registry.AuthConfig, known string) error {
	fd, isTerminal := terminal(a.In)
	if (auth.Username == "" || auth.Password == "") && !isTerminal {
		return errors.New("cannot perform an interactive login from a non TTY device: use --username and --password-stdin")
	}
	if auth.Username == "" {
		prompt := "Username: "
		if known != "" {
			prompt = fmt.Sprintf("Username (%s): ", known)
		}
		fmt.Fprint(a.Out, prompt)
		line, err := bufio.NewReader(a.In).ReadString('\n')
		if err != nil && line == "" {
			return err
		}
		if auth.Username = strings.TrimSpace(line); auth.Username == "" {
			auth.Username = known
		}
		if auth.Username == "" {
			return errors.New("Error: Non-null Username Required")
		}
	}
	if auth.Password == "" {
		// Asked for once it cannot be seen: people type ahead.
		var typed []byte
		err := tty.WithoutEcho(fd, func() (err error) {
			fmt.Fprint(a.Out, "Password: ")
			typed, err = term.ReadPassword(fd)
			return err
		})
		fmt.Fprintln(a.Out)
		if err != nil {
			return err
		}
		if auth.Password = string(typed); auth.Password == "" {
			return errors.New("Error: Password Required")
		}
	}
	return nil
}
