package ops

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/fraiseql/weir/internal/index"
	"github.com/fraiseql/weir/internal/jobs"
)

// Reindex stores a part of the history again, from PostgreSQL. conn is used by nobody else meanwhile.
func Reindex(ctx context.Context, conn *pgx.Conn, r index.Reindex) (index.Reindexed, error) {
	r.Finished = jobs.FinishedOf
	done, err := r.Run(ctx, conn)
	if err != nil && r.Elasticsearch != nil && r.Elasticsearch.Trouble() != "" {
		err = &ElasticsearchError{err}
	}
	return done, err
}

const elasticsearchCheck = "elasticsearch"

// DoctorElasticsearch looks at the Elasticsearch of the configuration. A worker goes on without it, so what is wrong is no error.
func DoctorElasticsearch(ctx context.Context, e *index.Elasticsearch) Finding {
	found := Finding{Check: elasticsearchCheck, Level: LevelWarning}
	has, err := e.Survey(ctx)
	switch {
	case err != nil && index.IsDenied(err):
		found.Problem = "it refuses the credentials: " + err.Error()
		found.Mend = "-- check api_key_env, or username_env and password_env, of the section elasticsearch, and what the role may do"
	case err != nil:
		found.Problem = "history and search actions would wait for it: " + err.Error()
		found.Mend = "-- check that it runs, and the section elasticsearch of the configuration"
	default:
		found.Level, found.Problem = LevelOK, "it serves: "+featuresText(has)
	}
	return found
}

func featuresText(f index.Features) string {
	text := strings.TrimSpace(f.Distribution + " " + f.Version)
	if text == "" {
		text = "a server that does not tell what it is"
	}
	for _, one := range []struct {
		name string
		has  bool
	}{{"data streams", f.DataStreams}, {"index lifecycles", f.Lifecycles}, {"delete by query", f.DeleteByQuery}} {
		if one.has {
			text += ", " + one.name
		} else {
			text += ", no " + one.name
		}
	}
	return text
}
